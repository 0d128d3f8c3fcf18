// Command catalog says what there is to be had.
package main

import (
	"net/http"

	"example.com/monorepo/internal/httpd"
)

var version = "devel"

type item struct {
	SKU   string `json:"sku"`
	Name  string `json:"name"`
	Cents int    `json:"cents"`
}

var items = []item{
	{SKU: "cup-1", Name: "cup", Cents: 950},
	{SKU: "pot-1", Name: "teapot", Cents: 3900},
}

func main() {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /items", func(w http.ResponseWriter, _ *http.Request) {
		httpd.JSON(w, http.StatusOK, items)
	})
	httpd.Serve("catalog", version, ":8080", mux)
}
