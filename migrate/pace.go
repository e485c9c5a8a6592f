package migrate

import "migrate/internal/pace"

// What MemoryOptions.Share may be besides percents.
const (
	ShareAuto = 0   // what the host leaves idle and does not slow down the container
	ShareAll  = 100 // no limit
)

// newPacer bounds what copying takes of the CPUs while the container runs; nil is no bound. The caller calls end when the
// container is spared no longer.
func (s *sender) newPacer() (p *pace.Pacer, end func()) {
	none := func() {}
	switch share := s.opt.Memory.Share; share {
	case ShareAll:
		return nil, none
	case ShareAuto:
	default:
		return pace.Fixed(float64(share*s.sess.Lanes()) / ShareAll), none
	}
	host, err := pace.OpenHost(s.h.Pid)
	if err != nil {
		s.log.Warn("what copying takes of the CPUs is not bounded", "err", err)
		return nil, none
	}
	auto := pace.NewAuto(host, s.log)
	return auto.Pacer, func() {
		auto.Close()
		_ = host.Close() // read only
	}
}

// hurry is for rounds that are held back no longer. A limit that was asked for stays.
func (s *sender) hurry() {
	if s.opt.Memory.Share == ShareAuto {
		s.copier.Hurry()
	}
}
