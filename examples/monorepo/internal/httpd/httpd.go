// Package httpd is how every service of this repository serves HTTP.
package httpd

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Serve answers requests at addr until the process is told to stop, and then
// lets those that are under way end. With "-version" as the process's only
// argument it says which version it is, and returns.
func Serve(name, version, addr string, routes http.Handler) {
	if len(os.Args) == 2 && os.Args[1] == "-version" {
		os.Stdout.WriteString(name + " " + version + "\n")
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()

	server := &http.Server{Addr: addr, Handler: routes, ReadHeaderTimeout: 5 * time.Second}
	go func() {
		<-ctx.Done()
		grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		server.Shutdown(grace)
	}()
	slog.Info("serving", "service", name, "version", version, "addr", addr)
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		slog.Error("serving", "service", name, "error", err)
		os.Exit(1)
	}
}

// JSON answers with v.
func JSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(v)
}
