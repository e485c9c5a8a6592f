package track

// WithoutKernels leaves out of ranges of a process what the kernel gave it, its vdso: after a move that is the other kernel's.
func WithoutKernels(pid int, ranges []Range) ([]Range, error) {
	var m mapReader
	sp, err := m.read(pid)
	if err != nil {
		return nil, err
	}
	var out []Range
	for _, r := range ranges {
		if sp.vdso.End <= r.Start || r.End <= sp.vdso.Start {
			out = append(out, r)
			continue
		}
		for _, part := range []Range{{r.Start, min(r.End, sp.vdso.Start)}, {max(r.Start, sp.vdso.End), r.End}} {
			if part.Start < part.End {
				out = append(out, part)
			}
		}
	}
	return out, nil
}
