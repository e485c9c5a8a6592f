package shim

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/manager"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"migrate/internal/criu"
	"migrate/internal/shim/sign"
)

// manages is what of the stock shim starts and stops shims.
type manages struct{ shim.Shim }

func newManager() shim.Shim { return manages{manager.NewShimManager(sign.Name)} }

// Info says that this is the shim that holds restores.
func (m manages) Info(ctx context.Context, r io.Reader) (*types.RuntimeInfo, error) {
	input, err := io.ReadAll(io.LimitReader(r, maxRequest))
	if err != nil {
		return nil, fmt.Errorf("read the runtime's options: %w", err)
	}
	if len(input) > 0 {
		if input, err = translateBytes(input); err != nil {
			return nil, err
		}
	}
	info, err := m.Shim.Info(ctx, bytes.NewReader(input))
	if err != nil {
		return nil, err
	}
	if info.Annotations == nil {
		info.Annotations = map[string]string{}
	}
	info.Annotations[sign.Holds] = criu.ActionSetupNamespaces
	return info, nil
}

func translateBytes(input []byte) ([]byte, error) {
	var given anypb.Any
	if err := proto.Unmarshal(input, &given); err != nil {
		return nil, fmt.Errorf("decode the runtime's options: %w", err)
	}
	o, err := translate(&given)
	if err != nil {
		return nil, err
	}
	return proto.Marshal(o)
}

// Stop takes away what a shim left that died. First what it may have left of a restore: the stock shim would have runc remove
// directories with everything that is mounted there.
func (m manages) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
	ns, err := namespaces.NamespaceRequired(ctx)
	if err != nil {
		return shim.StopStatus{}, err
	}
	cwd, err := os.Getwd()
	if err != nil {
		return shim.StopStatus{}, fmt.Errorf("find the bundle: %w", err)
	}
	bundle := filepath.Join(filepath.Dir(cwd), id)
	left, err := readResidue(bundle)
	if errors.Is(err, os.ErrNotExist) {
		return m.Shim.Stop(ctx, id)
	}
	if err == nil {
		err = left.remove()
	}
	if err != nil {
		return shim.StopStatus{}, fmt.Errorf("take away what the restore of %s in %s left: %w", id, ns, err)
	}
	status, err := m.Shim.Stop(ctx, id)
	if cerr := left.removeCgroups(); cerr != nil {
		log.G(ctx).WithError(cerr).Warn("remove the cgroups of a restore")
	}
	return status, err
}
