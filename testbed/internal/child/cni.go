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
}

// AttachCommand is the command, to be run in a host, that attaches the container
// and prints its addresses, one a line. The result is cached where CNI's users expect it.
func AttachCommand(a Attachment) []string { return a.command("add") }

// DetachCommand undoes AttachCommand.
func DetachCommand(a Attachment) []string { return a.command("del") }

func (a Attachment) command(verb string) []string {
	return []string{Self, roleCNI, "-id", a.ID, "-netns", a.Netns, "-ip", strings.Join(addressTexts(a.IPs), ","), "-mac", a.MAC, verb}
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
	if err := flags.Parse(args); err != nil {
		return exitFailure, err
	}
	if err := a.setIPs(*ips); err != nil {
		return exitFailure, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), cniTimeout)
	defer cancel()
	// The order matters: interfaces are numbered by it, and the first is eth0.
	network, err := cni.New(cni.WithPluginDir([]string{cniPlugins}), cni.WithConfListFile(cniConfig), cni.WithLoNetwork)
	if err != nil {
		return exitFailure, fmt.Errorf("load the CNI configuration: %w", err)
	}
	switch verb := flags.Arg(0); verb {
	case "add":
		err = a.add(ctx, network)
	case "del":
		err = network.Remove(ctx, a.ID, a.Netns)
	default:
		err = fmt.Errorf("unknown verb %q", verb)
	}
	if err != nil {
		return exitFailure, err
	}
	return 0, nil
}

func (a *Attachment) setIPs(texts string) error {
	for text := range strings.SplitSeq(texts, ",") {
		if text == "" {
			continue
		}
		ip, err := netip.ParseAddr(text)
		if err != nil {
			return err
		}
		a.IPs = append(a.IPs, ip)
	}
	return nil
}

func (a Attachment) add(ctx context.Context, network cni.CNI) error {
	var options []cni.NamespaceOpts
	if len(a.IPs) > 0 {
		options = append(options, cni.WithCapability("ips", addressTexts(a.IPs)))
	}
	if a.MAC != "" {
		options = append(options, cni.WithCapability("mac", a.MAC))
	}
	result, err := network.Setup(ctx, a.ID, a.Netns, options...)
	if err != nil {
		return errors.Join(err, network.Remove(ctx, a.ID, a.Netns))
	}
	found := false
	for _, given := range result.Interfaces {
		for _, config := range given.IPConfigs {
			address, ok := netip.AddrFromSlice(config.IP)
			if ok && !address.IsLoopback() {
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
