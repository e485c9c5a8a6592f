package restore

// slotUse counts, for each slot of the store, what will be read from it, up to many.
type slotUse []uint8

const many = 2

func (u *slotUse) add(slot, n uint32) {
	if need := int(slot) + int(n); need > len(*u) {
		*u = append(*u, make([]uint8, need-len(*u))...)
	}
	for i := slot; i < slot+n; i++ {
		(*u)[i] = min((*u)[i]+1, many)
	}
}

// once says whether a slot has one use.
func (u slotUse) once(slot uint32) bool { return u[slot] == 1 }

// single calls yield with the runs of n slots from slot that have one use.
func (u slotUse) single(slot, n uint32, yield func(slot, n uint32) error) error {
	for end := slot + n; slot < end; {
		from := slot
		for slot < end && u[slot] == 1 {
			slot++
		}
		if from < slot {
			if err := yield(from, slot-from); err != nil {
				return err
			}
		}
		for slot < end && u[slot] != 1 {
			slot++
		}
	}
	return nil
}
