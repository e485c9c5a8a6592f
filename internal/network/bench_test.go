package network

import "testing"

func BenchmarkLock(b *testing.B) {
	for name, kind := range map[string]func(string) (*Lock, error){"NewLock": NewLock, "Prelock": Prelock, "Fallback": kinds["protocols"]} {
		b.Run(name, func(b *testing.B) {
			bed := newBed(b)
			for b.Loop() {
				lock, err := kind(bed.container)
				check(b, err)
				b.StopTimer()
				check(b, lock.Remove())
				b.StartTimer()
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	bed := newBed(b)
	for b.Loop() {
		b.StopTimer()
		lock, err := NewLock(bed.container)
		check(b, err)
		b.StartTimer()
		check(b, lock.Open())
		b.StopTimer()
		check(b, lock.Remove())
		b.StartTimer()
	}
}

func BenchmarkRemove(b *testing.B) {
	bed := newBed(b)
	for b.Loop() {
		b.StopTimer()
		lock, err := NewLock(bed.container)
		check(b, err)
		check(b, lock.Open())
		b.StartTimer()
		check(b, lock.Remove())
	}
}

func BenchmarkAnnounce(b *testing.B) {
	bed := newBed(b)
	for b.Loop() {
		check(b, Announce(bed.container))
	}
}

func BenchmarkAnnouncerSend(b *testing.B) {
	bed := newBed(b)
	a, err := NewAnnouncer(bed.container)
	check(b, err)
	defer a.Close()
	for b.Loop() {
		check(b, a.Send())
	}
}

func BenchmarkEstablishedTCP(b *testing.B) {
	bed := newBed(b)
	bed.connection(b, container4)
	for b.Loop() {
		_, err := EstablishedTCP(bed.container)
		check(b, err)
	}
}

// BenchmarkShut is what a source does between the pause and the dump.
func BenchmarkShut(b *testing.B) {
	for name, keep := range map[string]bool{"Alone": false, "Capture": true} {
		b.Run(name, func(b *testing.B) {
			bed := newBed(b)
			for b.Loop() {
				b.StopTimer()
				lock, err := PrepareLock(bed.container)
				check(b, err)
				check(b, lock.RefuseNew())
				c := newCapture(b, bed.container, keepLimit)
				b.StartTimer()
				if keep {
					check(b, c.Start())
				}
				check(b, lock.Shut())
				b.StopTimer()
				check(b, lock.Remove())
				c.Close()
				b.StartTimer()
			}
		})
	}
}

func BenchmarkNewCapture(b *testing.B) {
	bed := newBed(b)
	for b.Loop() {
		c, err := NewCapture(bed.container, keepLimit)
		check(b, err)
		b.StopTimer()
		c.Close()
		b.StartTimer()
	}
}

func BenchmarkNewInjector(b *testing.B) {
	bed := newBed(b)
	inside(b, bed.peer, func() error {
		for b.Loop() {
			i, err := NewInjector(bed.container)
			check(b, err)
			b.StopTimer()
			i.Close()
			b.StartTimer()
		}
		return nil
	})
}

func BenchmarkInject(b *testing.B) {
	bed := newBed(b)
	i := bed.injector(b)
	frame := []Frame{frameTo(containerMAC, 1514, vnetHeader{})}
	b.SetBytes(1514)
	for b.Loop() {
		if _, err := i.Inject(frame); err != nil {
			b.Fatal(err)
		}
	}
}
