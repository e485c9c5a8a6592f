package shim

import (
	"fmt"
	"os"

	"github.com/containerd/containerd/api/types/runc/options"
	generic "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/typeurl/v2"
	"github.com/pelletier/go-toml/v2"
	"google.golang.org/protobuf/types/known/anypb"
)

// translate turns the options that engines give to runtimes which they do not know into runc's: TOML, in a file or right here, with the
// names that runc's options have in containerd's configuration. Other options stay what they are.
func translate(a *anypb.Any) (*anypb.Any, error) {
	if len(a.GetValue()) == 0 || !typeurl.Is(a, &generic.Options{}) {
		return a, nil
	}
	var g generic.Options
	if err := typeurl.UnmarshalTo(a, &g); err != nil {
		return nil, fmt.Errorf("decode the runtime's options: %w", err)
	}
	text := g.ConfigBody
	if len(text) == 0 && g.ConfigPath != "" {
		var err error
		if text, err = os.ReadFile(g.ConfigPath); err != nil {
			return nil, fmt.Errorf("read the runtime's options: %w", err)
		}
	}
	o := &options.Options{}
	if err := toml.Unmarshal(text, o); err != nil {
		return nil, fmt.Errorf("the runtime's options %s are not those of runc in TOML: %w", g.ConfigPath, err)
	}
	out, err := typeurl.MarshalAnyToProto(o)
	if err != nil {
		return nil, fmt.Errorf("encode runc's options: %w", err)
	}
	return out, nil
}

// runcOptions decodes translated options. Without any there are defaults.
func runcOptions(a *anypb.Any) (*options.Options, error) {
	o := &options.Options{}
	if len(a.GetValue()) == 0 {
		return o, nil
	}
	if err := typeurl.UnmarshalTo(a, o); err != nil {
		return nil, fmt.Errorf("decode runc's options: %w", err)
	}
	return o, nil
}
