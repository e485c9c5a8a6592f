package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/containerd/v2/core/containers"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// heldNamespaces are network namespaces without a path that are kept until their attachments are taken back: the plugins find in
// them which address and which rules of the host went with them.
type heldNamespaces struct {
	mu    sync.Mutex
	files map[string]*os.File // by container
}

func (h *heldNamespaces) put(id string, f *os.File) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.files == nil {
		h.files = map[string]*os.File{}
	}
	if old := h.files[id]; old != nil {
		old.Close()
	}
	h.files[id] = f
}

// path is where programs that this one starts find the namespace, "" if it is not held.
func (h *heldNamespaces) path(id string) string {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.files[id]; f != nil {
		return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), f.Fd())
	}
	return ""
}

func (h *heldNamespaces) drop(id string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f := h.files[id]; f != nil {
		f.Close()
		delete(h.files, id)
	}
}

func (h *heldNamespaces) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.files {
		f.Close()
	}
	h.files = nil
}

// ownNetwork says whether the specification has the runtime make a network namespace.
func ownNetwork(record containers.Container) bool {
	var spec specs.Spec
	if record.Spec == nil || json.Unmarshal(record.Spec.GetValue(), &spec) != nil {
		return false
	}
	ns := networkNamespace(&spec)
	return ns != nil && ns.Path == ""
}

// holdNetwork keeps the network namespace of a container whose processes are about to end with it. Should that fail, the addresses
// are given back all the same.
func (e *Engine) holdNetwork(ctx context.Context, record containers.Container) {
	if !ownNetwork(record) {
		return
	}
	ctx, cancel := e.call(ctx, callLimit)
	defer cancel()
	p, err := e.process(ctx, record.ID)
	if err == nil && (p == nil || p.Pid == 0) {
		return
	}
	var f *os.File
	if err == nil {
		f, err = os.Open(procNetNS(int(p.Pid)))
	}
	if err != nil {
		e.log.Debug("hold the network namespace", "container", record.ID, "err", err)
		return
	}
	e.netns.put(record.ID, f)
}

// removeUnnamed takes back what CNI attached to a namespace that the runtime made. The namespace ends with its processes.
func (e *Engine) removeUnnamed(ctx context.Context, record containers.Container) error {
	if !ownNetwork(record) {
		return nil
	}
	attached, err := e.cni.Owned(e.cniID(record.ID))
	if err != nil {
		return err
	}
	path := e.netns.path(record.ID)
	var errs []error
	for _, a := range attached {
		errs = append(errs, e.cni.Detach(ctx, path, a))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	e.netns.drop(record.ID)
	return nil
}
