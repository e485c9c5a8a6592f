package shim

import (
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
)

// containerd starts shims in one of two ways. Before 2.3 flags and environment say for whom, the standard input has the runtime's
// options or nothing, and the answer is JSON. Since then both ways go messages of the bootstrap API, and the stock shim knows nothing else. So that
// one program serves all, the old request is turned into a new one here, and the new answer into an old one.

// maxRequest bounds what is read of a request, as the stock shim does.
const maxRequest = 10 << 20

// invocation is what containerd's command line says.
type invocation struct {
	id, namespace, address string
	debug, start           bool
}

// parseInvocation reads the flags that all versions of containerd use. Flags that it does not know are for others to complain about.
func parseInvocation(args []string) invocation {
	var v invocation
	f := flag.NewFlagSet("", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	f.BoolVar(&v.debug, "debug", false, "")
	f.StringVar(&v.namespace, "namespace", "", "")
	f.StringVar(&v.id, "id", "", "")
	f.StringVar(&v.address, "address", "", "")
	for _, name := range []string{"socket", "debug-socket", "bundle", "publish-binary"} {
		f.String(name, "", "")
	}
	for _, name := range []string{"v", "version", "info"} {
		f.Bool(name, false, "")
	}
	v.start = f.Parse(args) == nil && f.Arg(0) == "start"
	return v
}

// isNew says whether input is a request of the bootstrap API. Runtime options may decode as one, too, but not with these names.
func (v invocation) isNew(input []byte) bool {
	var p bootapi.BootstrapParams
	return proto.Unmarshal(input, &p) == nil && p.InstanceID == v.id && p.Namespace == v.namespace
}

// request is the request of the bootstrap API that says what an old one does.
func (v invocation) request(input []byte) ([]byte, error) {
	p := &bootapi.BootstrapParams{
		InstanceID: v.id, Namespace: v.namespace, LogLevel: bootapi.LogLevel_LOG_LEVEL_INFO,
		ContainerdGrpcAddress: v.address, ContainerdTtrpcAddress: os.Getenv("TTRPC_ADDRESS"),
	}
	if v.debug {
		p.LogLevel = bootapi.LogLevel_LOG_LEVEL_DEBUG
	}
	if len(input) > 0 {
		var given anypb.Any
		if err := proto.Unmarshal(input, &given); err != nil {
			return nil, fmt.Errorf("decode the runtime's options: %w", err)
		}
		o, err := translate(&given)
		if err != nil {
			return nil, err
		}
		if err := p.AddExtension(o); err != nil {
			return nil, fmt.Errorf("pass the runtime's options on: %w", err)
		}
	}
	out, err := proto.Marshal(p)
	if err != nil {
		return nil, fmt.Errorf("encode the request to start: %w", err)
	}
	return out, nil
}

// answer is the old answer that says what one of the bootstrap API does.
type answer struct {
	Version  int    `json:"version"`
	Address  string `json:"address"`
	Protocol string `json:"protocol"`
}

func oldAnswer(said []byte) ([]byte, error) {
	var r bootapi.BootstrapResult
	if err := proto.Unmarshal(said, &r); err != nil {
		return nil, fmt.Errorf("decode the answer: %w", err)
	}
	return json.Marshal(answer{Version: int(r.Version), Address: r.Address, Protocol: r.Protocol})
}

// adapt puts itself between containerd and the stock shim when the program is asked to start one. finish is to be called when the
// stock shim has answered.
func adapt(args []string) (finish func() error, err error) {
	nothing := func() error { return nil }
	v := parseInvocation(args)
	if !v.start {
		return nothing, nil
	}
	input, err := io.ReadAll(io.LimitReader(os.Stdin, maxRequest))
	if err != nil {
		return nil, fmt.Errorf("read the request to start: %w", err)
	}
	old := !v.isNew(input)
	if old {
		if input, err = v.request(input); err != nil {
			return nil, err
		}
	}
	if os.Stdin, err = fileOf(input); err != nil {
		return nil, err
	}
	if !old {
		return nothing, nil
	}
	containerd := os.Stdout
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("take the answer: %w", err)
	}
	os.Stdout = w // an answer is short, and fits
	return func() error {
		w.Close()
		said, err := io.ReadAll(r)
		if err != nil {
			return fmt.Errorf("read the answer: %w", err)
		}
		if said, err = oldAnswer(said); err != nil {
			return err
		}
		if _, err := containerd.Write(said); err != nil {
			return fmt.Errorf("answer containerd: %w", err)
		}
		return nil
	}, nil
}

// fileOf is a file to read data from.
func fileOf(data []byte) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("pass the request on: %w", err)
	}
	go func() {
		defer w.Close()
		_, _ = w.Write(data) // a reader that ends early has its reasons
	}()
	return r, nil
}
