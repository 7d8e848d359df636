package core

import (
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are the Prometheus metrics of requests.
type metrics struct {
	inFlight prometheus.Gauge
	requests *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	sent     prometheus.Counter
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{Name: "vole_http_requests_in_flight", Help: "Requests under way."}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "vole_http_requests_total", Help: "Requests answered."},
			[]string{"dialect", "route", "status"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "vole_http_request_seconds", Help: "Time until a request was answered whole.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 18)}, []string{"dialect", "route"}),
		sent: prometheus.NewCounter(prometheus.CounterOpts{Name: "vole_http_sent_bytes_total", Help: "Bytes of answers, without headers."}),
	}
	if reg != nil {
		reg.MustRegister(m.inFlight, m.requests, m.seconds, m.sent)
	}
	return m
}

// observeRequest counts a finished request.
func (m *metrics) observeRequest(dialect, route string, status int, took time.Duration, sent int64) {
	m.requests.WithLabelValues(dialect, route, strconv.Itoa(status)).Inc()
	m.seconds.WithLabelValues(dialect, route).Observe(took.Seconds())
	m.sent.Add(float64(sent))
}
