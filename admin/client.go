package admin

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrNotRunning says that no sidecar answers at a socket.
var ErrNotRunning = errors.New("no sidecar answers")

// Client asks the sidecar that listens at a socket.
type Client struct {
	path string
	http http.Client
}

// NewClient connects when it is asked something.
func NewClient(path string) *Client {
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", path)
	}
	return &Client{path, http.Client{Transport: &http.Transport{DialContext: dial, DisableKeepAlives: true}}}
}

// Status is the sidecar's. The error is ErrNotRunning if there is none.
func (c *Client) Status(ctx context.Context) (status Status, err error) {
	body, err := c.do(ctx, http.MethodGet, "status")
	if err != nil {
		return status, err
	}
	if err := json.Unmarshal(body, &status); err != nil {
		return status, fmt.Errorf("%s: not a sidecar's answer: %w", c.path, err)
	}
	return status, nil
}

// Reload has the sidecar read its configuration again. The error says why it changed nothing.
func (c *Client) Reload(ctx context.Context) error {
	_, err := c.do(ctx, http.MethodPost, "reload")
	return err
}

func (c *Client) do(ctx context.Context, method, what string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, method, "http://sidecar/"+what, nil)
	if err != nil {
		return nil, err
	}
	response, err := c.http.Do(request)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ECONNREFUSED):
		return nil, fmt.Errorf("%w at %s", ErrNotRunning, c.path)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("%s is for root and the group %s: use sudo, or join the group", c.path, group)
	case err != nil:
		return nil, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err == nil && response.StatusCode >= http.StatusBadRequest {
		err = errors.New(strings.TrimSpace(string(body)))
	}
	return body, err
}
