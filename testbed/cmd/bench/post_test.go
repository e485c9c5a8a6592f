package main

import (
	"strings"
	"testing"

	"migrate/internal/report"
)

func TestPostRow(t *testing.T) {
	fill := &report.Fill{MS: 900}
	pre := &postRow{Mode: "precopy", MemoryMiB: 1024, LinkMbit: 100}
	if err := pre.add(&report.Report{DowntimeMS: 250, TotalMS: 60_000, Fill: fill, WireBytes: 700 << 20}); err != nil || pre.DegradedMS[0] != 900 || pre.Asked[0] != 0 {
		t.Errorf("%+v, %v", pre, err)
	}
	post := &postRow{Mode: "postcopy", Cut: true}
	rep := &report.Report{DowntimeMS: 251, TotalMS: 46_000, Fill: fill, Fetch: &report.Fetch{DegradedMS: 45_000, Asked: 1234, Reconnects: 1, MedianMS: 2.5}, WireBytes: 1}
	if err := post.add(rep); err != nil || post.DegradedMS[0] != 45_000 || post.Reconnects[0] != 1 {
		t.Errorf("%+v, %v", post, err)
	}
	if post.add(&report.Report{Fill: fill}) == nil || pre.add(&report.Report{}) == nil {
		t.Error("a report that tells nothing was taken in")
	}
	var b strings.Builder
	(&results{Post: []*postRow{pre, post}}).printPost(&b)
	for _, want := range []string{"1024 MiB over 100 Mbit/s", "postcopy, link cut", "45000", "1234"} {
		if !strings.Contains(b.String(), want) {
			t.Errorf("the table has no %q:\n%s", want, b.String())
		}
	}
}
