package admin

import "net/http"

const loggingHelp = `
usage: POST /logging						(To list current level)
usage: POST /logging?level=<level>				(To change global levels)
usage: POST /logging?level={mod1}={level1},{mod2}:{level2}	(To change specific mods' logging level)
usage: POST /logging?reset					(To go back to the levels of the start)

hint: loglevel:	error|warn|info|debug|trace|off
hint: mod_name:	the scope name, i.e. access or proxy::outbound
`

// logging shows or changes the filter of the log. The last level counts if
// there are several.
func (s *Server) logging(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodPost {
		text(w, http.StatusMethodNotAllowed, "Invalid HTTP method\n "+loggingHelp)
		return
	}
	query := r.URL.Query()
	var level string
	if levels := query["level"]; len(levels) > 0 {
		level = levels[len(levels)-1]
	}
	filter, err := s.cfg.Filter.Filter(), error(nil)
	switch {
	case query.Has("reset"):
		filter, err = s.cfg.Filter.SetFilter(level)
	case level != "":
		filter, err = s.cfg.Filter.AddFilter(level)
	}
	if err != nil {
		text(w, http.StatusBadRequest, "Invalid level provided: "+level+"\n"+loggingHelp)
		return
	}
	text(w, http.StatusOK, "current log level is "+filter+"\n")
}
