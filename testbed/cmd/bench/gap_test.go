package main

import (
	"strings"
	"testing"
	"time"

	"migrate/internal/report"
)

// TestGapRow has a stop among other silences: those before the move do not count, and one after it is the second.
func TestGapRow(t *testing.T) {
	begin := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	at := func(from, to int) clientSilence {
		return clientSilence{float64(to - from), begin.Add(time.Duration(from) * time.Millisecond), begin.Add(time.Duration(to) * time.Millisecond)}
	}
	r := trafficReport{Silences: []clientSilence{at(-900, -100), at(-10, 15), at(40, 90), at(200, 410), at(500, 530), at(600, 615)}}
	var w gapRow
	w.add(&report.Report{DowntimeMS: 205, Packets: 7, PacketsLost: 1}, 207, r.silences(begin))
	w.add(&report.Report{DowntimeMS: 205}, 201, nil)
	if w.StopMS[0] != 205 || w.StopMS[1] != 201 || w.GapMS[0] != 210 || w.SecondMS[0] != 30 || w.Kept[0] != 7 || w.Lost[0] != 1 || w.overs()[0] != 5 {
		t.Errorf("got %+v", w)
	}
}

// TestQuiet has a program that moved twice: its lines are in both hosts' logs, and only the second stop counts.
func TestQuiet(t *testing.T) {
	near := time.Date(2026, 3, 1, 12, 0, 2, 0, time.UTC)
	here := parseTicks("tick 1 12:00:00.000\ntick 4 12:00:01.000\ntick 5 12:00:01.250\n", near)
	there := parseTicks("tick 2 12:00:00.500\ntick 3 12:00:00.510\n", near)
	if got := quiet(append(here, there...), near.Add(-1100*time.Millisecond)); got != 490 {
		t.Errorf("the server was quiet for %v ms", got)
	}
}

func TestClientsLastWord(t *testing.T) {
	var c trafficClient
	if r := c.last(); r.progress() != 0 {
		t.Errorf("before the first word: %+v", r)
	}
	_, _ = c.Write([]byte(`{"requests":5,"silences":[{"ms":12.5,"began":"2026-03-01T12:00:00Z","ended":"2026-03-01T12:00:00.0125Z"}]}` + "\n" + `{"requests":9,`))
	if r := c.last(); r.Requests != 5 || len(r.Silences) != 1 || r.Silences[0].MS != 12.5 {
		t.Errorf("got %+v", r)
	}
}

// gapRows are two clients whose gaps were so much longer than the stop, one of which met so many resets.
func gapRows(over, connect float64, resets int64) []*gapRow {
	return []*gapRow{
		{Kind: "upload", IP: 6, StopMS: []float64{200, 300, 250}, GapMS: []float64{200 + over, 300, 250 + over},
			SecondMS: []float64{0, 0, 0}, Kept: []int64{1, 2, 3}, Lost: []int64{0, 0, 0}, Resets: resets},
		{Kind: kindConnect, IP: 4, StopMS: []float64{200}, GapMS: []float64{200 + connect}, SecondMS: []float64{0}, Kept: []int64{1}, Lost: []int64{0}},
	}
}

func TestGapTable(t *testing.T) {
	r := &results{Gap: gapRows(21, 50, 3)}
	r.judge()
	var out strings.Builder
	printTable(&out, r)
	for _, want := range []string{
		"upload IPv6", "target: gap ≤ stop + 20 ms: missed (upload IPv6 21.00)",
		"target: gap of new connections ≤ stop + 50 ms: met (connect IPv4 50.00)",
		"target: no client gets a wrong byte, a reset or an error: missed (upload IPv6 3.00, connect IPv4 0.00)",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, &out)
		}
	}
}
