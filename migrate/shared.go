package migrate

import (
	"context"
	"fmt"

	"migrate/internal/criu/pagemap"
	"migrate/internal/precopy"
	"migrate/internal/proto"
	"migrate/internal/report"
	"migrate/internal/shmem"
	"migrate/internal/track"
)

// sharedMemory is what the container's processes have in common.
type sharedMemory struct {
	set     *shmem.Set
	objects []*shmem.Object // as they were found last
	loose   []*shmem.Object // that no process has, but the dump
}

// followShared begins to look for shared memory.
func (s *sender) followShared() error {
	set, err := shmem.NewSet()
	if err != nil {
		return err
	}
	s.shared = &sharedMemory{set: set}
	s.push("let go of the container's shared memory", func(context.Context) error { return s.shared.close() })
	return nil
}

func (m *sharedMemory) close() error {
	for _, o := range m.loose {
		_ = o.Close() // it was only read
	}
	m.loose = nil
	return m.set.Close()
}

// sharing says whether shared memory was found when it was last looked for.
func (s *sender) sharing() bool { return s.shared != nil && len(s.shared.objects) > 0 }

// copyShared copies shared memory once while the container runs, where other memory is not copied in rounds: it cannot stay here.
func (s *sender) copyShared(ctx context.Context) error {
	if !s.inPlace() {
		return nil
	}
	pacer, end := s.newPacer()
	defer end()
	if err := s.makeCopier(nil, pacer); err != nil {
		return err
	}
	defer s.hurry()
	if objects, err := s.findShared(); err != nil || len(objects) == 0 {
		return err
	}
	s.clock.Enter(report.Precopy)
	r, err := s.copier.Round(ctx)
	if err != nil {
		return err
	}
	s.rep.Rounds = append(s.rep.Rounds, r)
	return nil
}

// restOfShared sends what the destination lacks of shared memory, where other memory stays. The dump is held.
func (s *sender) restOfShared(ctx context.Context) error {
	shared, err := s.dumpedShared()
	if err != nil || len(shared) == 0 {
		return err
	}
	r, err := s.copier.Rest(ctx, nil, shared)
	if err != nil {
		return err
	}
	s.rep.Rounds = append(s.rep.Rounds, r)
	return nil
}

// findShared looks for shared memory anew.
func (s *sender) findShared() ([]*shmem.Object, error) {
	pids, err := s.pids()
	if err != nil {
		return nil, err
	}
	s.shared.objects, err = s.shared.set.Find(pids)
	return s.shared.objects, err
}

// dumpedShared reads from the image set which pages of shared memory there are, and finds the memory for each.
func (s *sender) dumpedShared() ([]precopy.Shared, error) {
	maps, err := pagemap.List(s.stage.Images())
	if err != nil {
		return nil, fmt.Errorf("read the image set: %w", err)
	}
	byID := map[uint64]*shmem.Object{}
	for _, o := range s.shared.objects {
		byID[o.ID] = o
	}
	var list []precopy.Shared
	for _, m := range maps {
		if !m.Shmem {
			continue
		}
		f, err := pagemap.ReadFile(m.Path)
		if err != nil {
			return nil, fmt.Errorf("read the image set: %w", err)
		}
		sh := precopy.Shared{Object: byID[uint64(m.ID)], All: s.shared.set.Rings(), Ranges: inPlace(f)}
		s.rep.Shared += int64(track.Bytes(sh.Ranges))
		if sh.Object == nil && len(sh.Ranges) > 0 {
			if sh.Object, err = s.openLoose(uint64(m.ID)); err != nil {
				return nil, err
			}
			sh.All = true
		}
		if sh.Object != nil {
			list = append(list, sh)
		}
	}
	return list, nil
}

func inPlace(f *pagemap.File) []track.Range {
	var list []track.Range
	for _, e := range pagemap.Select(f.Entries, pagemap.Entry.InPlace) {
		list = append(list, track.Range{Start: e.Addr, End: e.End()})
	}
	return list
}

// openLoose opens shared memory that the dump has and no process: a segment that nobody has attached.
func (s *sender) openLoose(id uint64) (*shmem.Object, error) {
	o, err := shmem.OpenSegment(s.h.Pid, id)
	if err != nil {
		return nil, fmt.Errorf("shared memory %d was dumped, and no process has it: %w", id, err)
	}
	s.shared.loose = append(s.shared.loose, o)
	return o, nil
}

// describeShared says how the destination gets at the shared memory of the restored processes.
func (s *sender) describeShared() []proto.Shared {
	if s.shared == nil {
		return nil
	}
	var list []proto.Shared
	for _, o := range s.shared.objects {
		list = append(list, proto.Shared{ID: o.ID, Handle: o.Handle, Windows: o.Windows})
	}
	return list
}
