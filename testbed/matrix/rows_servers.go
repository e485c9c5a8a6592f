package matrix

import (
	_ "embed"

	"migrate/testbed"
)

var (
	//go:embed programs/nginx.conf
	nginxConfig string
	//go:embed programs/haproxy.cfg
	haproxyConfig string
	//go:embed programs/counter.php
	counterPHP string
	//go:embed programs/php-fpm.conf
	phpConfig string
	//go:embed programs/sshd.sh
	sshdStart string
	//go:embed programs/ssh.sh
	sshLoad string
)

// asking is a client that keeps one connection to a server of the test program's protocol.
func asking(port string) *Client {
	return &Client{Image: testbed.ImageTools, Script: retrying(dialing(port)) +
		"exec workload client --addr $ADDR:" + port + " --duration 0 --report 50ms --timeout 60s\n"}
}

// mptcp is what CRIU lacks for sockets of Go programs.
var mptcp = &Refusal{
	Words: "MPTCP",
	Why:   "Go listens through MPTCP since 1.24, which CRIU cannot move; GODEBUG=multipathtcp=0 avoids it",
	Link:  "https://github.com/checkpoint-restore/criu/issues/2655",
}

var servers = []Row{
	{
		Name:  "nginx",
		About: "a keep-alive connection whose requests the server counts, and a slow download; two workers",
		Image: testbed.ImageWeb,
		Files: map[string]string{"nginx.conf": nginxConfig},
		Start: "seq 3000000 >/data/lines\nexec nginx -c /data/nginx.conf",
		Load: &Client{Image: testbed.ImageTools, Script: retrying(dialing("8080")) +
			"workload download --addr $ADDR:8080 --path /lines --lines-per-sec 50000 >/data/download &\ndownload=$!\n" +
			under("workload count --protocol http --addr $ADDR:8080 --path /next --duration 0 --report 50ms",
				"kill -TERM $download\nwait $download\ntail -n 1 /data/download\n")},
	},
	{
		Name:  "haproxy",
		About: "a keep-alive connection through haproxy to nginx; the server counts its requests",
		Image: testbed.ImageWeb,
		Files: map[string]string{"nginx.conf": nginxConfig, "haproxy.cfg": haproxyConfig},
		Start: "nginx -c /data/nginx.conf &\nexec haproxy -db -f /data/haproxy.cfg",
		Load:  &Client{Image: testbed.ImageTools, Script: counting("http", "8081", "--path /next")},
	},
	{
		Name:  "php-fpm",
		About: "a keep-alive connection through nginx to PHP, which counts requests in a locked file",
		Image: testbed.ImageWeb,
		Files: map[string]string{"nginx.conf": nginxConfig, "counter.php": counterPHP, "php-fpm.conf": phpConfig},
		Start: "chmod 777 /data\nnginx -c /data/nginx.conf &\nexec $(echo /usr/sbin/php-fpm*) --nodaemonize --fpm-config /data/php-fpm.conf",
		Load:  &Client{Image: testbed.ImageTools, Script: counting("http", "8080", "--path /counter.php")},
	},
	{
		Name:  "go-http",
		About: "a keep-alive connection whose requests the server counts, and a slow download. GODEBUG=multipathtcp=0",
		Image: testbed.ImageTools,
		Env:   []string{"GODEBUG=multipathtcp=0"},
		Start: "exec workload web --listen :8080",
		Load: &Client{Image: testbed.ImageTools, Script: retrying(dialing("8080")) +
			"workload download --addr $ADDR:8080 --path /lines --lines-per-sec 50000 >/data/download &\ndownload=$!\n" +
			under("workload count --protocol http --addr $ADDR:8080 --path /next --duration 0 --report 50ms",
				"kill -TERM $download\nwait $download\ntail -n 1 /data/download\n")},
	},
	{
		Name:    "go-http-mptcp",
		About:   "the same with MPTCP, as Go has it by default",
		Image:   testbed.ImageTools,
		Start:   "exec workload web --listen :8080",
		Load:    &Client{Image: testbed.ImageTools, Script: counting("http", "8080", "--path /next")},
		Refused: mptcp,
	},
	{
		Name:  "sshd",
		About: "a session with a terminal stays open; every line that is typed comes back once",
		Image: testbed.ImageWeb,
		Start: sshdStart,
		Ready: "test -e /data/ready && cat /data/key",
		Load:  &Client{Image: testbed.ImageWeb, Script: sshLoad},
	},
}
