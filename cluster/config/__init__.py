"""The run's configuration: its schema, and how YAML files and command-line overrides become one."""
