package main

import (
	"context"
	"fmt"
	"runtime"
	"strconv"
	"time"
)

// An exporter is what containerd's own command line offers: a checkpoint as an image, carried over as an archive.
type exporter struct{ lab *lab }

func (*exporter) name() string                  { return toolCtr }
func (*exporter) mode() string                  { return "checkpoint-export" }
func (*exporter) prepare(context.Context) error { return nil }
func (*exporter) stop()                         {}

// The archive is in memory on both hosts. The container's image is at the destination already, as it is for the other
// tools, so the checkpoint is made without it, and the copy goes through the fastest cipher that ssh has. Without two
// flags of export it fails: the checkpoint's index has no manifest that Docker would understand. Without the third,
// --local, it has been seen to end before the archive was whole.
const (
	exportScript = markFunction + copyFunction + `
id=$1 ref=bench/$1:checkpoint archive=/run/bench/$1.tar platform=$2
mkdir -p /run/bench
mark begin
ctr containers checkpoint --rw --task $id $ref >/dev/null
mark checkpoint
ctr images export --local --platform $platform --skip-manifest-json $archive $ref
mark export
copy $archive
mark copy
stat -c 'size %s' $archive
rm $archive
`
	importScript = markFunction + `
id=$1 ref=bench/$1:checkpoint archive=/run/bench/$1.tar
mark start
ctr images import $archive >/dev/null
mark import
ctr containers restore --rw --live $id $ref </dev/null
mark restore
rm $archive
`
)

func (e *exporter) move(ctx context.Context, s subject) (sample, error) {
	if err := e.lab.start(ctx, s); err != nil {
		return sample{}, err
	}
	if err := e.lab.attach(ctx, e.lab.b, s, false); err != nil {
		return sample{}, err
	}
	if _, err := run(ctx, e.lab.b, "mkdir", "-p", "/run/bench"); err != nil {
		return sample{}, err
	}
	exported, err := script(ctx, e.lab.a, exportScript, s.id, "linux/"+runtime.GOARCH)
	if err != nil {
		return sample{}, err
	}
	imported, err := script(ctx, e.lab.b, importScript, s.id)
	if err != nil {
		return sample{}, err
	}
	pid, err := pidOf(ctx, e.lab.b, s.id)
	if err != nil {
		return sample{}, err
	}
	if err := s.verify(ctx, e.lab.b, pid); err != nil {
		return sample{}, err
	}
	return e.result(s, exported, imported)
}

func (e *exporter) result(s subject, exported, imported string) (sample, error) {
	m := parseMarks(exported + imported)
	r := sample{
		total: millis(m["restore"].Sub(m["begin"])),
		steps: m.steps("begin", "checkpoint", "export", "copy", "start", "import", "restore"),
	}
	r.downtime = r.total
	// ctr attaches to the container and shows its first line, if it is there before ctr ends
	if ticks := parseTicks(imported, time.Now()); len(ticks) > 0 {
		gap, err := silence(readTicks(e.lab.a, s), ticks[0])
		if err != nil {
			return r, err
		}
		r.gap, r.downtime = millis(gap), millis(ticks[0].at.Sub(m["begin"]))
	}
	var err error
	if r.wire, err = strconv.ParseInt(wordAfter(exported, "size"), 10, 64); err != nil {
		return r, fmt.Errorf("read the archive's size: %w", err)
	}
	return r, nil
}
