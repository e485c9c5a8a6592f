// Package network holds a container's network still while the container moves.
//
// A network namespace is named by a path, such as /run/netns/NAME or /proc/PID/ns/net. On the source, NewLock lets
// nothing in or out before the container is dumped; PrepareLock, RefuseNew and Shut are the same in steps. On the
// destination, Prelock does so before an interface exists, so that what arrives before the container's sockets do is
// dropped and not answered with a reset. Open ends either lock at once, Announce then tells switches and peers where
// the container is now, and Remove clears up when time matters no more:
//
//	lock, err := network.Prelock(netns)
//	…                                   // interfaces, addresses, restore
//	err = lock.Open()                   // well under a millisecond
//	err = network.Announce(netns)
//	…                                   // the container runs
//	err = lock.Remove()                 // waits for the kernel's grace periods
//
// Peers would send again, later and later, what a lock drops. So that they notice no more than the stop itself, a Capture
// keeps what comes in while the container stands still, and an Injector makes it arrive where the container goes on,
// the source included if it stays:
//
//	capture, err := network.NewCapture(netns, limit)  // all this early
//	lock, err := network.PrepareLock(netns)
//	…
//	err = capture.KeepNew()                           // shortly before the freeze
//	err = lock.RefuseNew()
//	err = network.Drain(netns, limit)
//	…                                                 // pause the container
//	err = capture.Start()
//	err = lock.Shut()
//	frames, err := capture.Next(ctx)                  // as they come, until a little after the container runs elsewhere
//
// At the destination a Gate keeps them until the lock is open, and Injector.Inject is behind it. Neighbours and
// SetNeighbours spare the container the question who is where.
//
// A lock is an nftables table and outlives the process that made it: an agent that dies leaves the container locked,
// never open. The agent that follows picks the lock up with Attach or takes it away with RemoveStale.
//
// Everything is done by netlink and packet sockets, since no process can be started in the time that these calls have.
package network
