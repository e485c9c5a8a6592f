package testbed

import (
	"crypto/ed25519"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/pem"
	"fmt"
)

// keys are made for one testbed: its hosts share a host key, and root of each host
// may log in to all of them.
type keys struct {
	host, user key
}

type key struct {
	private string // PEM
	public  string // as in authorized_keys
}

func newKeys() (keys, error) {
	host, err := newKey()
	if err != nil {
		return keys{}, err
	}
	user, err := newKey()
	return keys{host, user}, err
}

func newKey() (key, error) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		return key{}, fmt.Errorf("make an ssh key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return key{}, fmt.Errorf("make an ssh key: %w", err)
	}
	return key{
		private: string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})),
		public:  keyType + " " + base64.StdEncoding.EncodeToString(wireFormat(public)),
	}, nil
}

const keyType = "ssh-ed25519"

// wireFormat is RFC 8709, section 4: the type and the key, each with its length.
func wireFormat(public ed25519.PublicKey) []byte {
	var blob []byte
	for _, field := range [][]byte{[]byte(keyType), public} {
		blob = binary.BigEndian.AppendUint32(blob, uint32(len(field)))
		blob = append(blob, field...)
	}
	return blob
}

const sshdConfig = `HostKey /etc/ssh/ssh_host_ed25519_key
PidFile /run/sshd.pid
UsePAM no
UseDNS no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
MaxStartups 100
SetEnv PATH=` + hostPath + `
Subsystem sftp internal-sftp
`

const sshConfig = `Host *
	BatchMode yes
	StrictHostKeyChecking yes
	GlobalKnownHostsFile /etc/ssh/ssh_known_hosts
	UserKnownHostsFile /dev/null
	LogLevel ERROR
`

func (k keys) files() []file {
	return []file{
		{"/etc/ssh/ssh_host_ed25519_key", 0o600, k.host.private},
		{"/etc/ssh/ssh_host_ed25519_key.pub", 0o644, k.host.public + "\n"},
		{"/etc/ssh/ssh_known_hosts", 0o644, "* " + k.host.public + "\n"},
		{"/etc/ssh/sshd_config", 0o644, sshdConfig},
		{"/etc/ssh/ssh_config", 0o644, sshConfig},
		{"/root/.ssh/id_ed25519", 0o600, k.user.private},
		{"/root/.ssh/authorized_keys", 0o600, k.user.public + "\n"},
	}
}
