package child

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"net/netip"
	"strings"
	"time"

	"github.com/containerd/go-cni"
)

// Where a host has CNI's things; they are CNI's own defaults and Debian's.
const (
	cniPlugins = "/usr/lib/cni"
	cniConfig  = "/etc/cni/net.d/10-mt.conflist"
)

// cniTimeout is far above what plugins need.
const cniTimeout = 30 * time.Second

// An Attachment connects a network namespace to the host's CNI network.
type Attachment struct {
	ID    string       // container
	Netns string       // path of its network namespace
	IPs   []netip.Addr // none: any of the host's
	MAC   string       // empty: the plugin's choice
	Confs []string     // files of the networks; none: the hosts' common one
	Ports []string     // of the host: HOST:CONTAINER/PROTOCOL
}

// AttachCommand is the command, to be run in a host, that attaches the container
// and prints the addresses of its first interface, one a line. The result is cached where CNI's users expect it.
func AttachCommand(a Attachment) []string { return a.command("add") }

// DetachCommand undoes AttachCommand.
func DetachCommand(a Attachment) []string { return a.command("del") }

func (a Attachment) command(verb string) []string {
	return []string{
		Self, roleCNI, "-id", a.ID, "-netns", a.Netns, "-ip", strings.Join(addressTexts(a.IPs), ","), "-mac", a.MAC,
		"-conf", strings.Join(a.Confs, ","), "-port", strings.Join(a.Ports, ","), verb,
	}
}

func addressTexts(ips []netip.Addr) []string {
	var texts []string
	for _, ip := range ips {
		texts = append(texts, ip.String())
	}
	return texts
}

// attach is the role.
func attach(args []string) (int, error) {
	var a Attachment
	flags := flag.NewFlagSet(roleCNI, flag.ContinueOnError)
	flags.StringVar(&a.ID, "id", "", "container")
	flags.StringVar(&a.Netns, "netns", "", "path of its network namespace")
	ips := flags.String("ip", "", "addresses it must get, with commas")
	flags.StringVar(&a.MAC, "mac", "", "hardware address it must get")
	confs := flags.String("conf", "", "files of the networks, with commas")
	ports := flags.String("port", "", "ports of the host that lead to it, with commas")
	if err := flags.Parse(args); err != nil {
		return exitFailure, err
	}
	if err := a.setIPs(*ips); err != nil {
		return exitFailure, err
	}
	a.Confs, a.Ports = split(*confs), split(*ports)
	ctx, cancel := context.WithTimeout(context.Background(), cniTimeout)
	defer cancel()
	network, err := a.networks()
	if err != nil {
		return exitFailure, fmt.Errorf("load the CNI configuration: %w", err)
	}
	switch verb := flags.Arg(0); verb {
	case "add":
		err = a.add(ctx, network)
	case "del":
		err = a.remove(ctx, network)
	default:
		err = fmt.Errorf("unknown verb %q", verb)
	}
	if err != nil {
		return exitFailure, err
	}
	return 0, nil
}

// networks are those that the container is attached to, in the order of its interfaces.
func (a Attachment) networks() (cni.CNI, error) {
	confs := a.Confs
	if len(confs) == 0 {
		confs = []string{cniConfig}
	}
	options := []cni.Opt{cni.WithPluginDir([]string{cniPlugins})}
	for _, conf := range confs {
		options = append(options, cni.WithConfListFile(conf))
	}
	// The order matters: interfaces are numbered by it, and the first is eth0.
	return cni.New(append(options, cni.WithLoNetwork)...)
}

func split(list string) []string {
	return strings.FieldsFunc(list, func(r rune) bool { return r == ',' })
}

func (a *Attachment) setIPs(texts string) error {
	for _, text := range split(texts) {
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return err
		}
		a.IPs = append(a.IPs, ip)
	}
	return nil
}

// mapped is how the plugins are told of the ports, also when they are to take the mappings back.
func (a Attachment) mapped() ([]cni.NamespaceOpts, error) {
	var all []cni.PortMapping
	for _, text := range a.Ports {
		m := cni.PortMapping{}
		if _, err := fmt.Sscanf(text, "%d:%d/%s", &m.HostPort, &m.ContainerPort, &m.Protocol); err != nil {
			return nil, fmt.Errorf("port %q: want HOST:CONTAINER/PROTOCOL: %w", text, err)
		}
		all = append(all, m)
	}
	if len(all) == 0 {
		return nil, nil
	}
	return []cni.NamespaceOpts{cni.WithCapabilityPortMap(all)}, nil
}

func (a Attachment) remove(ctx context.Context, network cni.CNI) error {
	options, err := a.mapped()
	if err != nil {
		return err
	}
	return network.Remove(ctx, a.ID, a.Netns, options...)
}

func (a Attachment) add(ctx context.Context, network cni.CNI) error {
	options, err := a.mapped()
	if err != nil {
		return err
	}
	if len(a.IPs) > 0 {
		options = append(options, cni.WithCapability("ips", addressTexts(a.IPs)))
	}
	if a.MAC != "" {
		options = append(options, cni.WithCapability("mac", a.MAC))
	}
	result, err := network.Setup(ctx, a.ID, a.Netns, options...)
	if err != nil {
		return errors.Join(err, a.remove(ctx, network))
	}
	found := false
	if given := result.Interfaces[cni.DefaultPrefix+"0"]; given != nil {
		for _, config := range given.IPConfigs {
			if address, ok := netip.AddrFromSlice(config.IP); ok {
				fmt.Println(address.Unmap())
				found = true
			}
		}
	}
	if !found {
		return fmt.Errorf("container %s got no address", a.ID)
	}
	return nil
}
