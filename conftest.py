"""Nothing yet that every test of this repository shares; the plugin is loaded by its entry point."""
