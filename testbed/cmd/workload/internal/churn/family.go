package churn

import (
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// A family is a process with kids. It writes to what it shares with them copy-on-write, and has others in the place of
// those that end.
type family struct {
	board  *board
	fields [2]*field // that kids inherit
	random random
	kids   []*kid
	// order says what a new kid of that index is like.
	order func(k *kid)
}

func newFamily(o Options, kids int, order func(k *kid)) (*family, error) {
	b, err := newBoard()
	if err != nil {
		return nil, err
	}
	f := &family{board: b, random: random(o.Seed), order: order}
	for i := range kids {
		k, err := newKid()
		if err != nil {
			return nil, err
		}
		k.board, k.index = b, uint64(i)
		f.kids = append(f.kids, k)
	}
	return f, nil
}

// inherit gives the family memory that its kids get copies of.
func (f *family) inherit(pages int, seed uint64) (err error) {
	for i := range f.fields {
		if f.fields[i], err = newField(pages/len(f.fields), seed+uint64(i)<<32); err != nil {
			return err
		}
	}
	return nil
}

func (f *family) act() (*Damage, error) {
	for _, field := range f.fields {
		if field == nil {
			continue
		}
		if d := field.rewrite(&f.random, "parent"); d != nil {
			return d, nil
		}
	}
	return f.tend()
}

// tend looks after one kid.
func (f *family) tend() (*Damage, error) {
	k := f.kids[f.random.below(uint64(len(f.kids)))]
	if k.seat().pid.Load() == 0 {
		return nil, f.raise(k)
	}
	return k.reap()
}

// reap takes note of a kid that has ended.
func (k *kid) reap() (*Damage, error) {
	pid := int(k.seat().pid.Load())
	if pid == 0 {
		return nil, nil
	}
	var status unix.WaitStatus
	got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
	if err == unix.EINTR || err == nil && got == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("wait for child %d: %w", pid, err)
	}
	d := k.complaint(status)
	k.seat().pid.Store(0)
	return d, nil
}

// raise forks a kid with the memory as it is now.
func (f *family) raise(k *kid) error {
	k.random = random(f.random.next())
	for i, field := range f.fields {
		if field != nil {
			k.fields[i] = *field
		}
	}
	s := k.seat()
	s.answer.Store(f.board.request.Load())
	s.wrong.Store(0)
	f.order(k)
	return k.spawn()
}

// check has everybody look at everything. Kids that end meanwhile have looked at everything too.
func (f *family) check() (int, *Damage, error) {
	pages := 0
	for _, field := range f.fields {
		if field == nil {
			continue
		}
		n, d := field.lookAll("parent")
		if d != nil {
			return 0, d, nil
		}
		pages += n
	}
	n, d, err := f.ask()
	return pages + n, d, err
}

// ask has the kids that stay look at everything, and waits for those that end.
func (f *family) ask() (pages int, d *Damage, err error) {
	n := f.board.request.Add(1)
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		waiting, answered := 0, 0
		for _, k := range f.kids {
			s := k.seat()
			switch {
			case s.pid.Load() == 0:
			case k.role != witness && s.answer.Load() == n:
				answered += int(s.pages.Load())
			default:
				waiting++
			}
		}
		if waiting == 0 {
			return answered, nil, nil
		}
		for _, k := range f.kids {
			if d, err := k.reap(); d != nil || err != nil {
				return 0, d, err
			}
		}
		if time.Now().After(end) {
			return 0, &Damage{What: fmt.Sprintf("%d children do not answer within %v", waiting, patience)}, nil
		}
	}
}

// forkTree has witnesses with grandchildren all the time, and a few kids that stay for a while.
func forkTree(o Options) (*cast, error) {
	const staying, passing = 4, 6
	f, err := newFamily(o, staying+passing, func(k *kid) {
		if k.index < staying {
			k.role, k.acts, k.pause = settler, 2000, unix.NsecToTimespec(int64(time.Millisecond))
			return
		}
		k.role, k.depth, k.pause = witness, 2, unix.NsecToTimespec(int64(500*time.Microsecond))
	})
	if err != nil {
		return nil, err
	}
	if err := f.inherit(pagesIn(o.MiB)/8, o.Seed); err != nil {
		return nil, err
	}
	return &cast{actors: []actor{f}, burst: 4, pause: 2 * time.Millisecond}, nil
}

// copyOnWrite has kids that share most pages with their parent and go on writing for as long as it runs.
func copyOnWrite(o Options) (*cast, error) {
	f, err := newFamily(o, 5, func(k *kid) {
		k.role, k.pause = settler, unix.NsecToTimespec(int64(2*time.Millisecond))
		if k.index == 0 {
			k.acts = 5000 // one of them is forked anew now and then
		}
	})
	if err != nil {
		return nil, err
	}
	if err := f.inherit(pagesIn(o.MiB)/2, o.Seed); err != nil {
		return nil, err
	}
	return &cast{actors: []actor{f}, burst: 2, pause: 2 * time.Millisecond}, nil
}
