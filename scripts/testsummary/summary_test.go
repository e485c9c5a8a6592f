package main

import (
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	const events = `{"Action":"start","Package":"m/a"}
{"Action":"run","Package":"m/a","Test":"TestGood"}
{"Action":"output","Package":"m/a","Test":"TestGood","Output":"noise\n"}
{"Action":"pass","Package":"m/a","Test":"TestGood","Elapsed":0.1}
{"Action":"output","Package":"m/a","Test":"TestOff","Output":"=== RUN   TestOff\n"}
{"Action":"output","Package":"m/a","Test":"TestOff","Output":"    a_test.go:3: needs root\n"}
{"Action":"skip","Package":"m/a","Test":"TestOff"}
{"Action":"pass","Package":"m/a","Elapsed":1.5}
go: downloading something
{"Action":"output","Package":"m/b","Test":"TestBad","Output":"it broke\n"}
{"Action":"fail","Package":"m/b","Test":"TestBad","Elapsed":2}
{"Action":"fail","Package":"m/b","Elapsed":2.5}
{"Action":"output","Package":"m/c","Test":"TestHangs","Output":"so far\n"}
{"Action":"output","Package":"m/c","Output":"panic: too long\n"}
{"Action":"fail","Package":"m/c","Elapsed":9}
{"ImportPath":"m/d","Action":"build-output","Output":"d.go:1: syntax error\n"}
{"ImportPath":"m/d","Action":"build-fail"}
{"Action":"skip","Package":"m/e"}
`
	const want = `ok   m/a (1.5 s)
go: downloading something
FAIL m/b TestBad (2.0 s)
it broke
FAIL m/b (2.5 s)
FAIL m/c (9.0 s)
panic: too long
UNFINISHED m/c TestHangs
so far
FAIL build of m/d
d.go:1: syntax error
SKIP m/a TestOff: a_test.go:3: needs root
1 passed, 2 failed, 1 skipped
`
	var b strings.Builder
	s := newSummary(&b)
	if err := s.read(strings.NewReader(events)); err != nil {
		t.Fatal(err)
	}
	s.close(false)
	if b.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", b.String(), want)
	}
	if s.good(false) {
		t.Error("failures are good")
	}
}

func TestSkipsFailOnlyInCI(t *testing.T) {
	s := &summary{passed: 1, skipped: 1}
	if !s.good(false) || s.good(true) {
		t.Errorf("good: %v without CI, %v with", s.good(false), s.good(true))
	}
	if (&summary{}).good(false) {
		t.Error("no test at all is good")
	}
}
