package images

import "io/fs"

// appUser is the unprivileged user of the images' programs.
const appUser = 999

// base is the lowest layer of all images: a C library, a shell and the usual tools.
var base = Layer{
	Packages: []string{"base-files", "bash", "coreutils", "dash", "grep", "libc-bin", "procps", "sed"},
	Files: []File{
		{Path: "bin", Mode: fs.ModeSymlink | 0o777, Target: "usr/bin"},
		{Path: "sbin", Mode: fs.ModeSymlink | 0o777, Target: "usr/sbin"},
		{Path: "lib", Mode: fs.ModeSymlink | 0o777, Target: "usr/lib"},
		{Path: "lib64", Mode: fs.ModeSymlink | 0o777, Target: "usr/lib64"},
		{Path: "tmp", Mode: fs.ModeDir | fs.ModeSticky | 0o777},
		{Path: "data", Mode: fs.ModeDir | 0o755, Owner: appUser},
		{Path: "etc/passwd", Mode: 0o644, Content: "root:x:0:0:root:/root:/bin/bash\napp:x:999:999::/data:/bin/sh\n"},
		{Path: "etc/group", Mode: 0o644, Content: "root:x:0:\napp:x:999:\n"},
	},
}

var env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}

// Redis is an image of the redis server, whose program runs as an unprivileged user.
func Redis() Image {
	return Image{
		Name: "testbed/redis:latest",
		Layers: []Layer{
			base,
			{Packages: []string{"libssl3t64", "libstdc++6", "libsystemd0"}},
			{Packages: []string{"redis-server", "redis-tools"}},
			{Files: []File{{Path: "etc/redis-testbed.conf", Mode: 0o644, Content: redisConfig}}},
		},
		User: "app",
		Env:  env,
		Dir:  "/data",
		Cmd:  []string{"redis-server", "/etc/redis-testbed.conf"},
	}
}

// redisConfig keeps all writes in memory, where a migration has to find them.
const redisConfig = `bind * -::*
protected-mode no
save ""
dir /data
`

// Tools is an image with the test program of testbed/cmd/workload, given as the
// path of its static binary.
func Tools(workload string) Image {
	return Image{
		Name: "testbed/tools:latest",
		Layers: []Layer{
			base,
			{Files: []File{{Path: "usr/local/bin/workload", Mode: 0o755, Source: workload}}},
		},
		Env: env,
		Dir: "/data",
		Cmd: []string{"workload", "server"},
	}
}
