"""What kernels and objectives know: tables and pages made by a command."""
