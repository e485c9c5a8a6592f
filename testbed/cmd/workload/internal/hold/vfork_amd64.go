package hold

// vforkAndPause returns when the child was killed.
func vforkAndPause()
