package config

import (
	"errors"
	"math/big"
	"strconv"
	"strings"
)

// maxCPUs bounds every number of CPUs and threads, against typing errors.
const maxCPUs = 1 << 16

// errQuantity is the reason for every CPU quantity that is not taken.
var errQuantity = errors.New("must be a positive CPU quantity such as 2, 1.5 or 500m")

// scales are the suffixes of Kubernetes quantities.
var scales = map[string]*big.Rat{
	"n": power(10, -9), "u": power(10, -6), "m": power(10, -3), "": power(10, 0),
	"k": power(10, 3), "M": power(10, 6), "G": power(10, 9), "T": power(10, 12), "P": power(10, 15), "E": power(10, 18),
	"Ki": power(2, 10), "Mi": power(2, 20), "Gi": power(2, 30), "Ti": power(2, 40), "Pi": power(2, 50), "Ei": power(2, 60),
}

// power returns base to the power of exponent.
func power(base, exponent int64) *big.Rat {
	n := new(big.Int).Exp(big.NewInt(base), big.NewInt(max(exponent, -exponent)), nil)
	if exponent < 0 {
		return new(big.Rat).SetFrac(big.NewInt(1), n)
	}
	return new(big.Rat).SetInt(n)
}

// parseCPUs parses a positive Kubernetes quantity and rounds it up to whole
// CPUs.
func parseCPUs(s string) (int, error) {
	n, err := parseQuantity(s)
	if err == nil && n == 0 {
		return 0, errQuantity
	}
	return n, err
}

// parseQuantity parses a Kubernetes quantity that is not negative, a decimal
// with a suffix or an exponent, and rounds it up.
func parseQuantity(s string) (int, error) {
	if len(s) > maxNumeric {
		return 0, errQuantity
	}
	number, suffix, ok := decimal(strings.TrimPrefix(s, "+"))
	if !ok {
		return 0, errQuantity
	}
	scale, ok := scales[suffix]
	if !ok {
		if scale, ok = exponent(suffix); !ok {
			return 0, errQuantity
		}
	}
	number.Mul(number, scale)
	whole, remainder := new(big.Int).QuoRem(number.Num(), number.Denom(), new(big.Int))
	if remainder.Sign() > 0 {
		whole.Add(whole, big.NewInt(1))
	}
	if !whole.IsInt64() || whole.Int64() > maxCPUs {
		return 0, errQuantity
	}
	return int(whole.Int64()), nil
}

// exponent parses e3 or E-3, of a size at which arithmetic stays cheap.
func exponent(s string) (*big.Rat, bool) {
	if s == "" || s[0] != 'e' && s[0] != 'E' {
		return nil, false
	}
	n, err := strconv.Atoi(s[1:])
	if err != nil || n < -30 || n > 30 {
		return nil, false
	}
	return power(10, int64(n)), true
}

// threadCount is a wish for threads: a number, where 0 means all CPUs, or a
// share of the CPUs.
type threadCount struct {
	number  int
	percent *big.Rat // not nil: 0 < percent <= 100
}

// parseThreads parses ZTUNNEL_WORKER_THREADS: "N" or "N%".
func parseThreads(s string) (threadCount, error) {
	if text, isPercent := strings.CutSuffix(s, "%"); isPercent {
		number, rest, ok := decimal(text)
		if !ok || rest != "" || len(text) > maxNumeric {
			if strings.HasPrefix(text, "-") {
				return threadCount{}, errors.New("percentage must be between 0 and 100")
			}
			return threadCount{}, errors.New("invalid percentage: must be a number followed by %")
		}
		if number.Sign() == 0 || number.Cmp(big.NewRat(100, 1)) > 0 {
			return threadCount{}, errors.New("percentage must be between 0 and 100, 0 excluded")
		}
		return threadCount{percent: number}, nil
	}
	n, err := strconv.ParseUint(s, 10, 31)
	if err != nil || n > maxCPUs {
		return threadCount{}, errors.New("invalid number: must be a whole number from 0 (all CPUs) to 65536, or a percentage such as 50%")
	}
	return threadCount{number: int(n)}, nil
}

// of resolves the wish for a number of CPUs; the result is at least 1.
func (t threadCount) of(cpus int) int {
	switch {
	case t.percent != nil:
		share := new(big.Rat).Mul(t.percent, big.NewRat(int64(cpus), 100))
		n := new(big.Int).Add(share.Num(), new(big.Int).Sub(share.Denom(), big.NewInt(1)))
		return max(1, int(n.Quo(n, share.Denom()).Int64()))
	case t.number == 0:
		return max(1, cpus)
	default:
		return t.number
	}
}

// threadInputs is all that decides about the number of threads; 0 and nil mean
// "not configured".
type threadInputs struct {
	workers       *threadCount // ZTUNNEL_WORKER_THREADS
	concurrency   *uint16      // of the proxy configuration
	cpuLimit      int          // ZTUNNEL_CPU_LIMIT
	resourceLimit int          // ZTUNNEL_RESOURCE_CPU_LIMIT
	request       int          // ZTUNNEL_RESOURCE_CPU_REQUEST
	logical       int          // CPUs this process may run on
}

// threads returns how many threads to use, at least 1: as wished for, else
// all of an explicit limit, else a quarter of the CPUs but at least 2; a
// request is always used up.
func (in threadInputs) threads() int {
	cpus := in.logical
	if in.cpuLimit > 0 {
		cpus = in.cpuLimit
	}
	if in.resourceLimit > 0 {
		cpus = in.resourceLimit
	}
	switch {
	case in.workers != nil:
		return in.workers.of(cpus)
	case in.concurrency != nil:
		return threadCount{number: int(*in.concurrency)}.of(cpus)
	case in.resourceLimit > 0:
		return max(in.resourceLimit, in.request)
	default:
		return max((cpus+3)/4, in.request, 2)
	}
}
