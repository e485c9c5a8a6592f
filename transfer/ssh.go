package transfer

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"unicode"
)

// SSHCommand returns the command, for DialCommand, that runs remoteCmd on host
// over ssh without asking anything. user may be empty and port 0, for ssh's
// own defaults. extra are more options for ssh and trusted as they are. What
// could be taken for an option in host or user is refused.
func SSHCommand(user, host string, port int, remoteCmd, extra []string) ([]string, error) {
	if err := checkSSHName("host", host); err != nil {
		return nil, err
	}
	if len(remoteCmd) == 0 {
		return nil, errors.New("ssh: no command to run at the remote side")
	}
	argv := []string{"ssh", "-T", "-o", "BatchMode=yes", "-o", "EscapeChar=none", "-o", "ForwardAgent=no", "-o", "ClearAllForwardings=yes"}
	if user != "" {
		if err := checkSSHName("user", user); err != nil {
			return nil, err
		}
		argv = append(argv, "-l", user)
	}
	if port < 0 || port > 65535 {
		return nil, fmt.Errorf("ssh: port %d is out of range", port)
	}
	if port != 0 {
		argv = append(argv, "-p", strconv.Itoa(port))
	}
	argv = append(argv, extra...)
	quoted := make([]string, len(remoteCmd))
	for i, word := range remoteCmd {
		quoted[i] = shellQuote(word)
	}
	// ssh hands the words after the host to the remote shell as one line.
	return append(argv, "--", host, strings.Join(quoted, " ")), nil
}

// checkSSHName refuses names that ssh, or a ProxyCommand it fills them into,
// could take for something else.
func checkSSHName(what, name string) error {
	if name == "" || name[0] == '-' {
		return fmt.Errorf("ssh: %s %q is empty or looks like an option", what, name)
	}
	if strings.ContainsFunc(name, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || strings.ContainsRune("'\"`$\\;&|<>(){}*?!#~", r)
	}) {
		return fmt.Errorf("ssh: %s %q has characters that no %s has", what, name, what)
	}
	return nil
}

// shellQuote makes one word of s for a POSIX shell.
func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r > unicode.MaxASCII || !(unicode.IsLetter(r) || unicode.IsDigit(r) || strings.ContainsRune("-_./=:,@%+", r))
	}
	if s != "" && !strings.ContainsFunc(s, plain) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
