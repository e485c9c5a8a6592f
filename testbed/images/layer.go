package images

import (
	"archive/tar"
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// mtime is that of every file, so that bytes do not depend on when they were made.
var mtime = time.Unix(1_700_000_000, 0)

// files are all entries of the layer in the order of the archive. have holds the
// packages of the layers below and gets those of this one.
func (l Layer) files(c *catalogue, have map[string]bool) ([]File, error) {
	names, err := c.closure(l.Packages, have)
	if err != nil {
		return nil, err
	}
	found := map[string]File{}
	for _, name := range names {
		paths, err := c.paths(name)
		if err != nil {
			return nil, err
		}
		for _, path := range paths {
			file, err := inspect(c.tree, path)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, err
			}
			found[file.Path] = file
		}
	}
	if err := addLibraryLinks(c.tree, found); err != nil {
		return nil, err
	}
	for _, file := range l.Files {
		found[file.Path] = file
	}
	all := make([]File, 0, len(found))
	for _, file := range found {
		all = append(all, file)
	}
	slices.SortFunc(all, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	return all, nil
}

// addLibraryLinks adds the links to libraries by which programs find them and which no package has, since ldconfig(8) makes
// them when a package is installed.
func addLibraryLinks(tree string, found map[string]File) error {
	dirs := map[string]bool{}
	for path := range found {
		if strings.Contains(filepath.Base(path), ".so.") {
			dirs[filepath.Dir(path)] = true
		}
	}
	for dir := range dirs {
		entries, err := os.ReadDir(filepath.Join(tree, dir))
		if err != nil {
			return err
		}
		for _, entry := range entries {
			path := filepath.Join(dir, entry.Name())
			if _, have := found[path]; have || entry.Type() != fs.ModeSymlink {
				continue
			}
			link, err := inspect(tree, path)
			if err != nil {
				return err
			}
			if _, ours := found[filepath.Join(dir, link.Target)]; ours && strings.Contains(path, ".so.") {
				found[path] = link
			}
		}
	}
	return nil
}

// inspect describes a file of the tree. Debian's /bin and /lib are links into /usr;
// a package that still names them means what is there.
func inspect(tree, path string) (File, error) {
	dir, err := filepath.EvalSymlinks(filepath.Join(tree, filepath.Dir(path)))
	if err != nil {
		return File{}, err
	}
	full := filepath.Join(dir, filepath.Base(path))
	if path, err = filepath.Rel(tree, full); err != nil {
		return File{}, err
	}
	info, err := os.Lstat(full)
	if err != nil {
		return File{}, err
	}
	file := File{Path: path, Mode: info.Mode()}
	switch info.Mode().Type() {
	case 0:
		file.Source = full
	case fs.ModeSymlink:
		file.Target, err = os.Readlink(full)
	case fs.ModeDir:
	default:
		err = fmt.Errorf("%s is neither file, directory nor link", path)
	}
	return file, err
}

// writeLayer writes the entries as an uncompressed archive.
func writeLayer(w io.Writer, files []File) error {
	archive := tar.NewWriter(w)
	for _, file := range files {
		if err := file.write(archive); err != nil {
			return fmt.Errorf("%s: %w", file.Path, err)
		}
	}
	return archive.Close()
}

func (f File) write(archive *tar.Writer) error {
	header := &tar.Header{
		Name: f.Path, Mode: tarMode(f.Mode), Uid: f.Owner, Gid: f.Owner,
		ModTime: mtime, Format: tar.FormatPAX,
	}
	switch {
	case f.Mode.IsDir():
		header.Typeflag, header.Name = tar.TypeDir, f.Path+"/"
		return archive.WriteHeader(header)
	case f.Target != "":
		header.Typeflag, header.Linkname = tar.TypeSymlink, f.Target
		return archive.WriteHeader(header)
	case f.Source != "":
		return copyInto(archive, header, f.Source)
	}
	header.Size = int64(len(f.Content))
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err := io.WriteString(archive, f.Content)
	return err
}

func copyInto(archive *tar.Writer, header *tar.Header, path string) error {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	header.Size = info.Size()
	if err := archive.WriteHeader(header); err != nil {
		return err
	}
	_, err = io.Copy(archive, in)
	return err
}

// tarMode is a mode's bits as chmod(2) has them.
func tarMode(mode fs.FileMode) int64 {
	bits := int64(mode.Perm())
	for flag, bit := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if mode&flag != 0 {
			bits |= bit
		}
	}
	return bits
}
