package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"strings"

	"go.yaml.in/yaml/v3"
)

// proxyConfig is what is read of Istio's ProxyConfig; nil means "not given".
type proxyConfig struct {
	DiscoveryAddress *string           `yaml:"discoveryAddress"`
	ProxyAdminPort   *uint16           `yaml:"proxyAdminPort"`
	StatsPort        *uint16           `yaml:"statsPort"`
	Concurrency      *uint16           `yaml:"concurrency"`
	ProxyMetadata    map[string]string `yaml:"proxyMetadata"`
}

// proxyConfigOf merges the mesh configuration file, if there is one, with the
// content of PROXY_CONFIG, which wins field by field and, in the metadata, key
// by key.
func proxyConfigOf(file, env string) (proxyConfig, error) {
	merged, err := meshConfig(file)
	if err != nil {
		return proxyConfig{}, fmt.Errorf("error parsing proxy config: failed parsing mesh config file %s: %w", file, err)
	}
	var over proxyConfig
	if err := decode([]byte(env), &over); err != nil {
		return proxyConfig{}, fmt.Errorf("error parsing proxy config: failed parsing proxy config env: %w", err)
	}
	if over.DiscoveryAddress != nil {
		merged.DiscoveryAddress = over.DiscoveryAddress
	}
	if over.ProxyAdminPort != nil {
		merged.ProxyAdminPort = over.ProxyAdminPort
	}
	if over.StatsPort != nil {
		merged.StatsPort = over.StatsPort
	}
	if over.Concurrency != nil {
		merged.Concurrency = over.Concurrency
	}
	if merged.ProxyMetadata == nil {
		merged.ProxyMetadata = map[string]string{}
	}
	maps.Copy(merged.ProxyMetadata, over.ProxyMetadata)
	return merged, nil
}

// meshConfig reads defaultConfig of the mesh configuration; no file is an
// empty one.
func meshConfig(file string) (proxyConfig, error) {
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return proxyConfig{}, nil
	}
	if err != nil {
		return proxyConfig{}, err
	}
	var mesh struct {
		DefaultConfig proxyConfig `yaml:"defaultConfig"`
	}
	err = decode(content, &mesh)
	return mesh.DefaultConfig, err
}

// decode reads YAML, of which JSON is a part, and gives errors in one line.
func decode(content []byte, into any) error {
	if err := yaml.Unmarshal(content, into); err != nil {
		return errors.New(strings.Join(strings.Fields(err.Error()), " "))
	}
	return nil
}

// mergeMetadata strips the prefix ISTIO_META_ from the keys of the proxy
// configuration, where a key without it stays as it is but yields to one with
// it, and lays the environment over them.
func mergeMetadata(configured, environment map[string]string) map[string]string {
	const prefix = "ISTIO_META_"
	merged := make(map[string]string, len(configured)+len(environment))
	for key, value := range configured {
		if !strings.HasPrefix(key, prefix) {
			merged[key] = value
		}
	}
	for key, value := range configured {
		if stripped, ok := strings.CutPrefix(key, prefix); ok {
			merged[stripped] = value
		}
	}
	maps.Copy(merged, environment)
	return merged
}
