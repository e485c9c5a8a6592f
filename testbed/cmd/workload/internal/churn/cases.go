package churn

import (
	"slices"
	"time"
)

// A Case is one way to be hard on memory.
type Case struct {
	Name  string
	About string
	make  func(Options) (*cast, error)
}

// usual is the pace of most cases: fast enough that there is always something written, slow enough that on a small machine
// something is left for whoever moves the program.
const (
	usualBurst = 16
	usualPause = time.Millisecond
)

func usual(err error, actors ...actor) (*cast, error) {
	return &cast{actors: actors, burst: usualBurst, pause: usualPause}, err
}

// Cases are all cases.
var Cases = []Case{
	{"random-writers", "four threads write random pages", randomWriters},
	{"write-storm", "one thread writes a word of every page, round and round, as fast as it can", writeStorm},
	{"mapchurn", "mappings come, go, move, grow, shrink and are mapped over", mapChurn},
	{"dontneed", "memory is given back and freed lazily, huge pages among it", dontNeed},
	{"forktree", "children and grandchildren come and go, and check what they inherit", forkTree},
	{"threads", "many threads, some of which end all the time while others begin", threads},
	{"cow", "processes share pages copy-on-write and grow apart", copyOnWrite},
	{"shared", "processes write to shared anonymous memory and to a memory file, by mappings and by pwrite", shared},
	{"memfile", "memory files that nobody maps are written, shrink, grow and get holes; shared memory is removed and mapped twice", memFiles},
	{"hugetlb", "mappings of huge pages", hugeTLB},
	{"mlock", "memory that is locked and unlocked", locked},
	{"stack", "deep recursion in many threads, and stacks that grow downwards", stacks},
	{"guard", "pages become unreadable, read-only and writable again", guards},
	{"sparse", "a mapping of 1 TiB with few pages in it", sparse},
	{"manyvmas", "10,000 mappings", manyVMAs},
	{"filepriv", "private mappings of a file, partly written", filePrivate},
	{"brk", "a program break that goes up and down", programBreak},
	{"goheap", "Go's heap, with the collector at work all the time", goHeap},
	{"redis", "a redis that always saves itself, whose keys are compared", redisSaving},
	{"java", "a Java virtual machine that makes garbage and checks what it keeps", javaHeap},
	{"postgres", "PostgreSQL under pgbench, checked by sums and by amcheck", postgres},
}

// Names are the names of all cases.
func Names() []string {
	var names []string
	for _, c := range Cases {
		names = append(names, c.Name)
	}
	return names
}

func find(name string) (Case, bool) {
	i := slices.IndexFunc(Cases, func(c Case) bool { return c.Name == name })
	if i < 0 {
		return Case{}, false
	}
	return Cases[i], true
}
