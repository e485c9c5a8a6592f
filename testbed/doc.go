// Package testbed makes several hosts on one machine, for tests, experiments and
// demonstrations of migration between hosts.
//
// A host is a process in namespaces of its own (mount, pid, network, UTS, IPC and
// cgroup) with its own Debian root, its own cgroups, an address on a network that
// all hosts share, and containerd and sshd at work. It needs root, and nothing of
// the machine is touched outside these namespaces, the testbed's directories and
// its cgroups.
//
//	func main() {
//		if code, ran := testbed.Child(); ran {
//			os.Exit(code)
//		}
//		…
//		bed, err := testbed.Up(ctx, testbed.Options{Name: "demo", Hosts: []string{"a", "b"}})
//		defer bed.Down(ctx)
//		out, err := bed.Host("a").Command(ctx, "ping", "-c1", "b").Output()
//
// A testbed outlives the program that made it. [Open] finds it again by its name,
// [Down] takes it away in whatever state it is, and [Leftovers] tells what is left.
//
// # Network
//
// All hosts are on one segment, 10.N.0.0/16 and fdN::/64, where N differs between
// testbeds. Host addresses are 10.N.0.11, 10.N.0.12 and so on, and containers of
// the CNI network "mt" take theirs from 10.N.1.0/24 and fdN::1:0/112 on the first
// host, 10.N.2.0/24 and fdN::2:0/112 on the second; every host accepts the addresses of all, so that a container can
// keep its address when it moves. Hosts with Docker have a Docker network "mt" on the same segment, with IPv4 only.
package testbed
