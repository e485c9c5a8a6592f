package layers

// Lengths on the wire. A record that exceeds one is refused before memory is
// allocated for it, and the source refuses to write it.
const (
	maxName       = 255              // bytes of one path component, NAME_MAX
	maxPath       = 4 * 4096         // bytes of an upper-relative path
	maxTarget     = 4095             // bytes of a symbolic link's target, PATH_MAX without the NUL
	maxData       = 1 << 20          // content bytes of one DATA record
	maxXattrName  = 255              // bytes, XATTR_NAME_MAX
	maxXattrValue = 64 << 10         // bytes, XATTR_SIZE_MAX
	maxXattrs     = 1024             // attributes of one entry
	maxXattrBytes = 1 << 20          // names and values of one entry's attributes
	maxPayload    = maxData + 64<<10 // any record; ENTRY: path, target and maxXattrBytes fit
	maxSlots      = 4096             // files put aside in one round
	maxRedirect   = 4096             // bytes of an overlay redirect
	maxMetacopy   = 256              // bytes of an overlay metacopy value
	maxFileSize   = 1 << 62          // bytes; leaves room to round up
)

// Limits bound what one Apply accepts. Zero fields take the defaults below.
type Limits struct {
	MaxEntries   int64 // records that create, change or remove; default 10,000,000
	MaxBytes     int64 // content bytes in this stream; default 1 TiB
	MaxFileSize  int64 // size in bytes of any one file, holes included; default 16 TiB
	MaxDepth     int   // path components; default 8192
	AllowDevices bool  // accept device nodes other than whiteouts
}

func (l Limits) withDefaults() Limits {
	if l.MaxEntries == 0 {
		l.MaxEntries = defaultMaxEntries
	}
	if l.MaxBytes == 0 {
		l.MaxBytes = 1 << 40
	}
	if l.MaxFileSize == 0 {
		l.MaxFileSize = 16 << 40
	}
	if l.MaxDepth == 0 {
		l.MaxDepth = maxPath / 2
	}
	return l
}
