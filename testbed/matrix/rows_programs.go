package matrix

import (
	_ "embed"

	"migrate/testbed"
)

var (
	//go:embed programs/pipes.sh
	bashPipes string
	//go:embed programs/compile.sh
	compiling string
	//go:embed programs/pixz.sh
	compressing string
	//go:embed programs/tmux.sh
	tmuxPane string
)

var programs = []Row{
	{
		Name:  "bash",
		About: "numbers go through a coprocess, a pipeline of children, a FIFO and a signal handler",
		Image: testbed.ImageTools, Ticks: true,
		Files: map[string]string{"pipes.sh": bashPipes},
		Start: "exec bash -eu /data/pipes.sh",
	},
	{
		Name:  "gcc",
		About: "make -j2 compiles and links programs all the while; each is run and has to say what follows from its sources",
		Image: testbed.ImagePrograms, Ticks: true,
		Start: compiling,
	},
	{
		Name: "pixz",
		About: "two threads pack a file of 8 MiB by LZMA, again and again; what they made has to be the same file unpacked. " +
			"xz itself runs in a Landlock sandbox, in which CRIU cannot work",
		Image: testbed.ImagePrograms, Ticks: true,
		Start: compressing,
	},
	{
		Name:  "tmux",
		About: "lines are typed into a pane; the program on its terminal has to get each once",
		Image: testbed.ImagePrograms, Ticks: true,
		Start: tmuxPane,
	},
}
