package storage

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// User is a process outside the container that has the same directory mounted.
type User struct {
	Pid  int
	Name string // of the program
	At   string // where it has it
}

// OtherUsers looks for other containers that have a bind of the same directory, or of one above or below it: mount namespaces whose
// root is neither this host's nor the container's. dev and root are those of the mount in the container. What has the
// whole file system mounted does not count.
func OtherUsers(container int, dev uint64, root string) []User {
	known := map[string]bool{}
	for _, p := range []string{"self", strconv.Itoa(container)} {
		if ns, err := os.Readlink("/proc/" + p + "/ns/mnt"); err == nil {
			known[ns] = true
		}
	}
	host := rootMount(os.Getpid())
	namespaces, _ := filepath.Glob("/proc/[1-9]*/ns/mnt")
	var users []User
	for _, path := range namespaces {
		ns, err := os.Readlink(path)
		if err != nil || known[ns] {
			continue // it ended, or was looked at
		}
		known[ns] = true
		pid, err := strconv.Atoi(strings.Split(path, "/")[2])
		if err != nil || rootMount(pid) == host {
			continue // a service of the host that keeps a few mounts to itself
		}
		if u, uses := user(pid, dev, root); uses {
			users = append(users, u)
		}
	}
	return users
}

func user(pid int, dev uint64, root string) (User, bool) {
	mounts, err := Mounts(pid)
	if err != nil {
		return User{}, false // it ended
	}
	for _, m := range mounts {
		if m.Root != "/" && devOf(m) == dev && overlap(m.Root, root) {
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)) // only for the message
			return User{Pid: pid, Name: strings.TrimSpace(string(comm)), At: m.Mountpoint}, true
		}
	}
	return User{}, false
}

// rootMount identifies what a process has at its root.
func rootMount(pid int) string {
	mounts, err := Mounts(pid)
	if err != nil {
		return ""
	}
	for _, m := range mounts {
		if m.Mountpoint == "/" {
			return fmt.Sprintf("%d:%d %s", m.Major, m.Minor, m.Root)
		}
	}
	return ""
}

func devOf(m *mountinfo.Info) uint64 { return unix.Mkdev(uint32(m.Major), uint32(m.Minor)) }

func overlap(a, b string) bool {
	_, below := Beneath(a, b)
	_, above := Beneath(b, a)
	return below || above
}
