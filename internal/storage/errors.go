package storage

import "errors"

// ErrNoContent is a bind whose content cannot come along: a socket, a FIFO or a device.
var ErrNoContent = errors.New("only directories and files have content that can come along")
