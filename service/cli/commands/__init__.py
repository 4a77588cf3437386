"""What each command does. `service.cli.app` imports a module of this package when it runs it."""
