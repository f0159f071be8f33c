package catalog

// goRuntime are the families of the standard Go collector and those of
// runtime/metrics that are switched on. Their HELP lines are the collector's.
func goRuntime() []Metric {
	return []Metric{
		{Name: "go_cpu_classes_gc_total_cpu_seconds_total", Type: Counter, Unit: "s", Stable: true, Help: "Estimated CPU time spent on garbage collection"},
		{Name: "go_cpu_classes_idle_cpu_seconds_total", Type: Counter, Unit: "s", Stable: true, Help: "Estimated CPU time available but not used"},
		{Name: "go_cpu_classes_total_cpu_seconds_total", Type: Counter, Unit: "s", Stable: true, Help: "Estimated CPU time available, GOMAXPROCS over time"},
		{Name: "go_cpu_classes_user_cpu_seconds_total", Type: Counter, Unit: "s", Stable: true, Help: "Estimated CPU time spent running Go code"},
		{Name: "go_gc_cycles_total_gc_cycles_total", Type: Counter, Stable: true, Help: "Garbage collections completed"},
		{Name: "go_gc_duration_seconds", Type: Summary, Unit: "s", Stable: true, Help: "Pauses of garbage collections"},
		{Name: "go_gc_gogc_percent", Type: Gauge, Stable: true, Help: "Target of the heap's growth, GOGC"},
		{Name: "go_gc_gomemlimit_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Limit of the Go runtime's memory, GOMEMLIMIT"},
		{Name: "go_goroutines", Type: Gauge, Stable: true, Help: "Goroutines that exist"},
		{Name: "go_info", Type: Gauge, Stable: true, Labels: []string{"version"}, Help: "Version of Go, as a label"},
		{Name: "go_memstats_alloc_bytes_total", Type: Counter, Unit: "By", Stable: true, Help: "Bytes allocated on the heap, even if released"},
		{Name: "go_memstats_buck_hash_sys_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Bytes used by the profiling bucket hash table"},
		{Name: "go_memstats_frees_total", Type: Counter, Stable: true, Help: "Heap objects freed"},
		{Name: "go_memstats_gc_sys_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Bytes used for garbage collection metadata"},
		{Name: "go_memstats_heap_alloc_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Bytes of heap objects"},
		{Name: "go_memstats_heap_idle_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Heap bytes waiting to be used"},
		{Name: "go_memstats_heap_inuse_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Heap bytes in use"},
		{Name: "go_memstats_heap_objects", Type: Gauge, Stable: true, Help: "Heap objects that exist"},
		{Name: "go_memstats_heap_released_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Heap bytes returned to the system"},
		{Name: "go_memstats_heap_sys_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Heap bytes obtained from the system"},
		{Name: "go_memstats_last_gc_time_seconds", Type: Gauge, Unit: "s", Stable: true, Help: "When the last garbage collection was, as Unix time"},
		{Name: "go_memstats_mallocs_total", Type: Counter, Stable: true, Help: "Heap objects allocated"},
		{Name: "go_memstats_mcache_inuse_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Bytes in use by mcache structures"},
		{Name: "go_memstats_mcache_sys_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Bytes obtained for mcache structures"},
		{Name: "go_memstats_mspan_inuse_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Bytes in use by mspan structures"},
		{Name: "go_memstats_mspan_sys_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Bytes obtained for mspan structures"},
		{Name: "go_memstats_next_gc_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Heap size at which the next garbage collection begins"},
		{Name: "go_memstats_other_sys_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Bytes used for other system allocations"},
		{Name: "go_memstats_stack_inuse_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Stack bytes in use"},
		{Name: "go_memstats_stack_sys_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Stack bytes obtained from the system"},
		{Name: "go_memstats_sys_bytes", Type: Gauge, Unit: "By", Stable: true, Help: "Bytes obtained from the system"},
		{Name: "go_sched_gomaxprocs_threads", Type: Gauge, Stable: true, Help: "Threads that run Go code at once, GOMAXPROCS"},
		{Name: "go_sched_latencies_seconds", Type: Histogram, Unit: "s", Stable: true, Help: "Time that goroutines waited to run"},
		{Name: "go_sched_pauses_total_gc_seconds", Type: Histogram, Unit: "s", Stable: true, Help: "Stop-the-world pauses of garbage collections"},
		{Name: "go_sync_mutex_wait_total_seconds_total", Type: Counter, Unit: "s", Stable: true, Help: "Time that goroutines were blocked on mutexes"},
		{Name: "go_threads", Type: Gauge, Stable: true, Help: "Threads of the system created"},
	}
}
