package shim

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	taskAPI "github.com/containerd/containerd/api/runtime/task/v3"
	stock "github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/process"
	specs "github.com/opencontainers/runtime-spec/specs-go"

	"migrate/internal/criu"
)

const (
	specName   = "config.json"
	ownDir     = "migrate" // in the bundle
	configName = "criu.conf"

	// configAnnotation names a configuration of CRIU, and hostConfig is the one if there is no annotation (runc,
	// libcontainer/criu_linux.go). An empty annotation means none.
	configAnnotation = "org.criu.config"
	hostConfig       = "/etc/criu/runc.conf"
)

// bundle is a container's OCI bundle while a restore of it is under way.
type bundle struct {
	path   string
	spec   []byte // the specification as the engine wrote it
	config string // the configuration of CRIU that the engine wants, "" for none
	left   residue
	point  string // where the restore is held
	hook   *criu.Hook
}

func (b *bundle) own(name string) string { return filepath.Join(b.path, ownDir, name) }

// arrange has CRIU call the shim's action script in a restore from the bundle.
func arrange(namespace string, r *taskAPI.CreateTaskRequest) (_ *bundle, err error) {
	o, err := runcOptions(r.Options)
	if err != nil {
		return nil, err
	}
	b := &bundle{path: r.Bundle}
	if b.spec, err = os.ReadFile(filepath.Join(b.path, specName)); err != nil {
		return nil, fmt.Errorf("read the specification: %w", err)
	}
	spec, err := decodeSpec(b.spec)
	if err != nil {
		return nil, err
	}
	b.point = spec.point()
	text, err := b.readConfig(spec.annotations)
	if err != nil {
		return nil, err
	}
	root := o.Root
	if root == "" {
		root = stock.RuncRoot
	}
	b.left = residue{State: filepath.Join(root, namespace, r.ID), Work: workDir(text), Images: r.Checkpoint}
	if b.left.Work == "" {
		b.left.Work = o.CriuWorkPath
	}
	if b.left.Work == "" {
		b.left.Work = filepath.Join(b.path, "work") // the stock shim's
	}
	return b, b.write(spec, text)
}

// readConfig reads the configuration of CRIU that would be in force.
func (b *bundle) readConfig(annotations map[string]string) ([]byte, error) {
	name, given := annotations[configAnnotation]
	if !given {
		name = hostConfig
	}
	b.config = name
	if name == "" {
		return nil, nil
	}
	text, err := os.ReadFile(name)
	if err != nil && !errors.Is(err, os.ErrNotExist) { // CRIU does not mind
		return nil, fmt.Errorf("read the configuration of CRIU: %w", err)
	}
	return text, nil
}

// workDir is the work directory that a configuration of CRIU sets, or "".
func workDir(config []byte) (dir string) {
	if dirs := takeOption(&config, "work-dir"); len(dirs) > 0 {
		dir = dirs[len(dirs)-1]
	}
	return dir
}

// takeOption takes all lines with an option out of a configuration of CRIU, and returns its values.
func takeOption(config *[]byte, option string) (values []string) {
	var rest []byte
	for line := range strings.Lines(string(*config)) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.TrimLeft(name, "-") == option {
			values = append(values, strings.Trim(strings.TrimSpace(value), `"`))
		} else {
			rest = append(rest, line...)
		}
	}
	*config = rest
	return values
}

// write makes the shim's directory and points the specification at it.
func (b *bundle) write(spec *spec, config []byte) error {
	if err := os.Mkdir(b.own(""), 0o700); err != nil {
		return fmt.Errorf("make the restore's directory: %w", err)
	}
	if err := b.left.write(b.path); err != nil {
		return err
	}
	var before []string
	if b.point == criu.ActionSetupNamespaces {
		// others prepare the namespaces before anybody sees them, and nobody sees them if they fail: who connects a namespace that was not
		// locked draws the container's peers to where nobody knows them
		before = takeOption(&config, "action-script")
	}
	var err error
	if b.hook, err = criu.NewHookAfter(before, b.own(""), b.point); err != nil {
		return err
	}
	// called last configured first: what others hold at the other point, they hold when the task is started
	config = append(config, "\naction-script \""+b.hook.Script()+"\"\n"...)
	if err := os.WriteFile(b.own(configName), config, 0o600); err != nil {
		return fmt.Errorf("write the configuration of CRIU: %w", err)
	}
	text, err := spec.with(configAnnotation, b.own(configName))
	if err != nil {
		return err
	}
	return b.writeSpec(text)
}

func (b *bundle) writeSpec(text []byte) error {
	if err := os.WriteFile(filepath.Join(b.path, specName), text, 0o600); err != nil {
		return fmt.Errorf("write the specification: %w", err)
	}
	return nil
}

// settle ends the arrangement when runc has done what it does. runc keeps the name of the shim's configuration for later
// checkpoints, which are to find there what the engine wants.
func (b *bundle) settle() error {
	b.hook.Close()
	err := errors.Join(b.writeSpec(b.spec), b.left.removeImages())
	for _, name := range []string{configName, noteName} {
		if rerr := os.Remove(b.own(name)); rerr != nil && !errors.Is(rerr, os.ErrNotExist) {
			err = errors.Join(err, fmt.Errorf("end the restore: %w", rerr))
		}
	}
	if b.config == "" {
		return err
	}
	if lerr := os.Symlink(b.config, b.own(configName)); lerr != nil {
		err = errors.Join(err, fmt.Errorf("end the restore: %w", lerr))
	}
	return err
}

// spec is a specification of which only what matters here is understood.
type spec struct {
	all         map[string]json.RawMessage
	annotations map[string]string
	namespaces  []specs.LinuxNamespace
}

func decodeSpec(text []byte) (*spec, error) {
	s := &spec{}
	var part struct {
		Annotations map[string]string
		Linux       struct{ Namespaces []specs.LinuxNamespace }
	}
	for _, into := range []any{&s.all, &part} {
		if err := json.Unmarshal(text, into); err != nil {
			return nil, fmt.Errorf("decode the specification: %w", err)
		}
	}
	s.annotations, s.namespaces = part.Annotations, part.Linux.Namespaces
	return s, nil
}

// point is where a restore is held: a network namespace that the runtime makes has to be filled before there are sockets in it.
func (s *spec) point() string {
	for _, n := range s.namespaces {
		if n.Type == specs.NetworkNamespace && n.Path == "" {
			return criu.ActionSetupNamespaces
		}
	}
	return criu.ActionPostRestore
}

// with encodes the specification with another annotation.
func (s *spec) with(key, value string) ([]byte, error) {
	annotations := map[string]string{key: value}
	for k, v := range s.annotations {
		if k != key {
			annotations[k] = v
		}
	}
	var err error
	if s.all["annotations"], err = json.Marshal(annotations); err != nil {
		return nil, fmt.Errorf("encode annotations: %w", err)
	}
	text, err := json.Marshal(s.all)
	if err != nil {
		return nil, fmt.Errorf("encode the specification: %w", err)
	}
	return text, nil
}
