package track

// VPid is a process's pid in its innermost pid namespace, which is what CRIU names images by. ErrGone when it has ended.
func VPid(pid int) (int, error) { return innermost(pid) }

// Kinds lists all kinds of trackers, whether this host has them or not, best first.
func Kinds() []string { return []string{WP, SoftDirty, Hash} }
