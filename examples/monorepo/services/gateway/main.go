// Command gateway is the one service that the world can reach.
package main

import (
	"net/http"
	"net/http/httputil"
	"net/url"

	"example.com/monorepo/internal/httpd"
)

var version = "devel"

func main() {
	mux := http.NewServeMux()
	for _, service := range []string{"catalog", "orders"} {
		backend := &url.URL{Scheme: "http", Host: service + ":8080"}
		proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(backend) }}
		mux.Handle("/"+service+"/", http.StripPrefix("/"+service, proxy))
	}
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		httpd.JSON(w, http.StatusOK, "ok")
	})
	httpd.Serve("gateway", version, ":8080", mux)
}
