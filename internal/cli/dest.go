package cli

import (
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
)

// defaultPort is where `migrate recv` listens.
const defaultPort = 7600

// destination is where a container goes: a TLS address, or a host to be reached over ssh.
type destination struct {
	text string // as the user wrote it
	addr string // host:port for TLS, "" for ssh
	user string // ssh only
	host string // ssh only
	port int    // ssh only; 0 for ssh's own default
}

func (d destination) ssh() bool { return d.addr == "" }

const destRemedy = "write HOST, HOST:PORT, [IPV6]:PORT or ssh://USER@HOST[:PORT]"

// parseDest reads DEST.
func parseDest(text string) (destination, error) {
	if strings.Contains(text, "://") {
		return parseSSH(text)
	}
	addr, err := withPort(text)
	if err != nil {
		return destination{}, err
	}
	return destination{text: text, addr: addr}, nil
}

func parseSSH(text string) (destination, error) {
	bad := func(why string) (destination, error) {
		return destination{}, usage(fmt.Sprintf("destination %q: %s", text, why), destRemedy)
	}
	u, err := url.Parse(text)
	switch {
	case err != nil:
		return bad("it is no address")
	case u.Scheme != "ssh":
		return bad(fmt.Sprintf("the scheme %q is unknown", u.Scheme))
	case u.Hostname() == "":
		return bad("the host is missing")
	case u.Path != "" && u.Path != "/", u.RawQuery != "", u.Fragment != "":
		return bad("nothing may follow the host")
	}
	d := destination{text: text, host: u.Hostname()}
	if u.User != nil {
		if _, has := u.User.Password(); has {
			return bad("a password does not belong on a command line; use a key")
		}
		d.user = u.User.Username()
	}
	if p := u.Port(); p != "" {
		if d.port, err = parsePort(p); err != nil {
			return bad(err.Error())
		}
	}
	return d, nil
}

// withPort completes a TLS address.
func withPort(text string) (string, error) {
	bad := func(why string) (string, error) {
		return "", usage(fmt.Sprintf("destination %q: %s", text, why), destRemedy)
	}
	if strings.Contains(text, "@") {
		return bad("users belong to ssh:// only")
	}
	// an IPv6 address without brackets has no port, since its last group could be one
	if ip, err := netip.ParseAddr(strings.Trim(text, "[]")); err == nil {
		return net.JoinHostPort(ip.String(), strconv.Itoa(defaultPort)), nil
	}
	if !strings.Contains(text, ":") {
		text += ":" + strconv.Itoa(defaultPort)
	}
	host, port, err := net.SplitHostPort(text)
	switch {
	case err != nil:
		return bad("it is no address")
	case host == "":
		return bad("the host is missing")
	case strings.ContainsAny(host, "/ \t"):
		return bad("the host has characters that no host has")
	}
	if _, err := parsePort(port); err != nil {
		return bad(err.Error())
	}
	return net.JoinHostPort(host, port), nil
}

func parsePort(text string) (int, error) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, fmt.Errorf("%q is no port", text)
	}
	return int(n), nil
}
