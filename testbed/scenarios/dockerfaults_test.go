package scenarios

import (
	"testing"

	"migrate/internal/report"
)

// TestDockerFaults is a sample of the failure tests on Docker. MIGRATE_SCENARIOS_ENGINE=docker runs all of them there.
func TestDockerFaults(t *testing.T) {
	t.Parallel()
	r := dock26.rig(t)
	for name, test := range map[string]func(*testing.T, *rig){
		"answer-lost":        answerLost,
		"criu-killed":        criuKilledInHold,
		"interrupted":        func(t *testing.T, r *rig) { interrupt(t, r, momentOf(report.Sync)) },
		"source-killed":      func(t *testing.T, r *rig) { sourceKilled(t, r, momentOf(report.Freeze)) },
		"destination-killed": func(t *testing.T, r *rig) { destinationKilled(t, r, momentOf(report.Restore)) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, r)
		})
	}
}
