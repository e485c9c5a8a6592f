package layers

import (
	"errors"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// xattrReader reads extended attributes into buffers it keeps.
type xattrReader struct {
	names []byte
	value []byte
}

// list returns the attribute names of an entry, which is not followed. A file
// system without attributes has none.
func (x *xattrReader) list(path string) ([]string, error) {
	for {
		n, err := unix.Llistxattr(path, x.names)
		switch {
		case errors.Is(err, unix.EOPNOTSUPP):
			return nil, nil
		case errors.Is(err, unix.ERANGE), err == nil && len(x.names) == 0 && n > 0:
			x.names = make([]byte, max(4096, 2*len(x.names), n))
			continue
		case err != nil:
			return nil, &os.PathError{Op: "listxattr", Path: path, Err: err}
		case n == 0:
			return nil, nil
		}
		return strings.Split(strings.TrimSuffix(string(x.names[:n]), "\x00"), "\x00"), nil
	}
}

// get returns one attribute; false if it has gone meanwhile.
func (x *xattrReader) get(path, name string) (string, bool, error) {
	if x.value == nil {
		x.value = make([]byte, maxXattrValue)
	}
	n, err := unix.Lgetxattr(path, name, x.value)
	switch {
	case errors.Is(err, unix.ENODATA):
		return "", false, nil
	case err != nil:
		return "", false, &os.PathError{Op: "getxattr " + name, Path: path, Err: err}
	}
	return string(x.value[:n]), true, nil
}

// read returns the carried attributes of an entry and calls drop with the names
// of those that are left out.
func (x *xattrReader) read(path string, drop func(string)) (attrs, error) {
	var a attrs
	names, err := x.list(path)
	if err != nil || len(names) == 0 {
		return a, err
	}
	total := 0
	for _, name := range names {
		if !managedName(name) {
			drop(name)
			continue
		}
		v, ok, err := x.get(path, name)
		if err != nil {
			return a, err
		}
		if ok && !a.add(name, v) {
			drop(name)
		}
		total += len(name) + len(v)
	}
	if total > maxXattrBytes || len(names) > maxXattrs {
		return a, &LimitError{What: "MaxXattrBytes", Limit: maxXattrBytes, Got: int64(total)}
	}
	a.sort()
	return a, nil
}
