//go:build race

package transfer_test

// raceDetector reports whether the test was built with it: pools lose buffers at random then.
const raceDetector = true
