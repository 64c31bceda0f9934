// Package readings keeps the latest values of OpenTelemetry metrics, says what was added to them since the reading before,
// and writes them as text, JSON or CSV. It knows nothing of where they come from.
package readings
