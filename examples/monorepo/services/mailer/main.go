// Command mailer keeps what is to be sent and shows it.
package main

import (
	"encoding/json"
	"net/http"

	"example.com/monorepo/internal/httpd"
	"example.com/monorepo/internal/store"
)

var version = "devel"

type mail struct {
	To      string `json:"to"`
	Subject string `json:"subject"`
}

func main() {
	var outbox store.Store[mail]
	mux := http.NewServeMux()
	mux.HandleFunc("POST /mails", func(w http.ResponseWriter, r *http.Request) {
		var m mail
		if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<16)).Decode(&m); err != nil || m.To == "" {
			httpd.JSON(w, http.StatusBadRequest, "a mail is {to, subject}")
			return
		}
		outbox.Add(m)
		w.WriteHeader(http.StatusAccepted)
	})
	mux.HandleFunc("GET /mails", func(w http.ResponseWriter, _ *http.Request) {
		httpd.JSON(w, http.StatusOK, outbox.All())
	})
	httpd.Serve("mailer", version, ":8080", mux)
}
