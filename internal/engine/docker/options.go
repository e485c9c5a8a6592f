package docker

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"

	"migrate/internal/engine"
	"migrate/internal/shim/sign"
)

// options is what of a container only Docker understands.
type options struct {
	Config     *container.Config                    `json:"config"`
	HostConfig *container.HostConfig                `json:"host_config"`
	Endpoints  map[string]*network.EndpointSettings `json:"endpoints,omitempty"`
}

// imageAnnotation keeps the name that the container's image had at the first of its hosts. A host to which it moves does not
// give the name to what a peer has sent.
const imageAnnotation = "migrate.image"

func optionsOf(r *container.InspectResponse, n engine.Network) options {
	config, host := *r.Config, *r.HostConfig
	config.Labels = nil // the description has them
	host.ContainerIDFile = ""
	host.Annotations = maps.Clone(host.Annotations)
	delete(host.Annotations, criuAnnotation)
	delete(host.Annotations, imageAnnotation)
	return options{Config: &config, HostConfig: &host, Endpoints: endpoints(r, n)}
}

func decodeOptions(c *engine.Container) (*options, error) {
	var o options
	if err := json.Unmarshal(c.Options, &o); err != nil {
		return nil, fmt.Errorf("decode the container's configuration: %w", err)
	}
	if o.Config == nil || o.HostConfig == nil {
		return nil, fmt.Errorf("the container's configuration is incomplete")
	}
	return &o, nil
}

// imageName is what the container's owner calls its image.
func imageName(r *container.InspectResponse) string {
	if name := r.HostConfig.Annotations[imageAnnotation]; name != "" {
		return name
	}
	return r.Config.Image
}

// checkKind refuses containers that are made in ways a destination could not follow.
func checkKind(r *container.InspectResponse) error {
	h := r.HostConfig
	for _, refused := range []struct {
		it     bool
		what   string
		remedy string
	}{
		{h.Privileged, "it is privileged", "make it without --privileged"},
		{h.IpcMode.IsShareable() || h.IpcMode.IsContainer() || h.IpcMode.IsHost(), fmt.Sprintf("its /dev/shm is not its own (--ipc %s)", h.IpcMode), "make it with --ipc private"},
		{h.PidMode != "", fmt.Sprintf("it shares processes (--pid %s)", h.PidMode), "make it without --pid"},
		{h.UTSMode != "", "it shares the host's name (--uts host)", "make it without --uts"},
		{len(h.Devices)+len(h.DeviceRequests)+len(h.DeviceCgroupRules) > 0, "it has devices", "make it without --device and --gpus"},
		{len(h.VolumesFrom) > 0, "it has volumes of other containers (--volumes-from)", "give it the volumes themselves"},
		{len(h.Links) > 0, "it has links to other containers (--link)", "use a user-defined network"},
		{!slices.Contains([]string{"", "runc", sign.StockName, sign.Name}, h.Runtime), fmt.Sprintf("it runs under the runtime %q", h.Runtime), "make it with --runtime runc"},
		{h.CgroupParent != "", "it has a cgroup parent of its own", "make it without --cgroup-parent"},
		{len(h.StorageOpt) > 0, "it has storage options", "make it without --storage-opt"},
		{h.UsernsMode != "", "it chooses its user namespace", "make it without --userns"},
	} {
		if refused.it {
			return unfit(refused.remedy, "%s cannot be moved: %s", what(nameOf(r)), refused.what)
		}
	}
	if strings.ContainsAny(nameOf(r), "/") {
		return unfit("rename it", "%s has a name with a slash", what(nameOf(r)))
	}
	return nil
}
