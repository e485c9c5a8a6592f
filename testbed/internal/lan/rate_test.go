package lan

import "testing"

func TestParseRate(t *testing.T) {
	for text, want := range map[string]Rate{
		"": 0, "none": 0, "500kbit": 500 * kbit, "100mbit": 100 * mbit, "1gbit": gbit, "10gbit": 10 * gbit, "32gbit": maxRate,
	} {
		got, err := ParseRate(text)
		if err != nil || got != want {
			t.Errorf("ParseRate(%q) = %d, %v, want %d", text, got, err, want)
		}
		if text != "" && got.String() != text {
			t.Errorf("rate %q is printed as %q", text, got)
		}
	}
	for _, text := range []string{"0mbit", "fast", "mbit", "-1gbit", "33gbit", "100", "99999999999gbit"} {
		if rate, err := ParseRate(text); err == nil {
			t.Errorf("ParseRate(%q) = %d", text, rate)
		}
	}
}

func TestBucket(t *testing.T) {
	if got := (10 * gbit).bucket(); got != 2_500_000 {
		t.Errorf("bucket of 10 Gbit/s is %d", got)
	}
	if got := (10 * mbit).bucket(); got != minBucket {
		t.Errorf("bucket of 10 Mbit/s is %d, less than a packet", got)
	}
}
