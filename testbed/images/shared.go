package images

import "io/fs"

// The images below hold several programs each, so that many workloads share few of them. What they are made of is in a
// tree of its own, see [Packages]: hosts have no use for it.

// servers gives programs that insist on it a user of their own.
var servers = Layer{Files: []File{
	{Path: "etc/passwd", Mode: 0o644, Content: "root:x:0:0:root:/root:/bin/bash\napp:x:999:999::/data:/bin/sh\n" +
		"nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin\nsshd:x:100:65534::/run/sshd:/usr/sbin/nologin\nwww-data:x:33:33::/data:/usr/sbin/nologin\n"},
	{Path: "etc/group", Mode: 0o644, Content: "root:x:0:\napp:x:999:\nnogroup:x:65534:\nwww-data:x:33:\ntty:x:5:\n"},
	{Path: "etc/hosts", Mode: 0o644, Content: "127.0.0.1 localhost\n::1 localhost\n"},
	{Path: "root", Mode: fs.ModeDir | 0o700},
	{Path: "run/sshd", Mode: fs.ModeDir | 0o755},
	{Path: "var/tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
}}

// shared is an image of Debian packages and nothing that starts by itself.
func shared(name string, packages ...string) Image {
	return Image{
		Name:   "testbed/" + name + ":latest",
		Layers: []Layer{base, {Packages: packages}, servers},
		Env:    env,
		Dir:    "/data",
		Cmd:    []string{"bash"},
	}
}

// Databases is an image of servers that keep data, with their clients.
func Databases() Image {
	return shared("databases", "etcd-server", "mariadb-client-core", "mariadb-server-core", "memcached", "mosquitto", "mosquitto-clients",
		"postgresql", "sqlite3")
}

// Web is an image of servers that people reach through a network.
func Web() Image {
	return shared("web", "haproxy", "nginx-light", "openssh-client", "openssh-server", "php-fpm")
}

// Languages is an image of interpreters.
func Languages() Image {
	return shared("languages", "bsh", "nodejs", "default-jre-headless", "python3")
}

// Programs is an image of what people run in a terminal.
func Programs() Image {
	return shared("programs", "gcc", "libc6-dev", "make", "pixz", "tmux")
}

// Packages are those that the images name, which the tree that they are made of must have.
func Packages(images ...Image) []string {
	var all []string
	for _, image := range images {
		for _, layer := range image.Layers {
			all = append(all, layer.Packages...)
		}
	}
	return all
}
