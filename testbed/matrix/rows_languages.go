package matrix

import (
	_ "embed"

	"migrate/testbed"
)

var (
	//go:embed programs/server.py
	serverPython string
	//go:embed programs/server.js
	serverNode string
	//go:embed programs/server.bsh
	serverJava string
)

var languages = []Row{
	{
		Name:  "python",
		About: "asyncio serves a client that stays connected, while numbers go from threads to the event loop and back",
		Image: testbed.ImageLanguages, User: "app", Ticks: true,
		Files: map[string]string{"server.py": serverPython},
		Start: "exec python3 /data/server.py",
		Load:  asking("7000"),
	},
	{
		Name:  "node",
		About: "serves a client that stays connected, while a worker thread counts by timers, under a seccomp profile, which forbids io_uring",
		Image: testbed.ImageLanguages, User: "app", Ticks: true,
		Seccomp: SeccompOn,
		Files:   map[string]string{"server.js": serverNode},
		Start:   "exec node /data/server.js",
		Load:    asking("7000"),
	},
	{
		Name:  "node-io-uring",
		About: "the same with io_uring, which node uses where no seccomp profile forbids it",
		Image: testbed.ImageLanguages, User: "app", Ticks: true,
		Seccomp: SeccompOff,
		Files:   map[string]string{"server.js": serverNode},
		Start:   "exec node /data/server.js",
		Load:    asking("7000"),
		Refused: &Refusal{
			Words: "io_uring",
			Why:   "CRIU cannot move io_uring; a seccomp profile that forbids it helps",
			Link:  "https://github.com/checkpoint-restore/criu/issues/2131",
		},
	},
	{
		Name:  "jvm",
		About: "OpenJDK with BeanShell serves a client that stays connected, while twenty threads pass a number round through queues",
		Image: testbed.ImageLanguages, User: "app", Ticks: true,
		Files: map[string]string{"server.bsh": serverJava},
		Start: "exec /usr/lib/jvm/default-java/bin/java -cp /usr/share/java/bsh.jar bsh.Interpreter /data/server.bsh",
		Load:  asking("7000"),
	},
}
