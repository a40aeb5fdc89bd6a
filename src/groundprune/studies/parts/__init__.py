"""What the studies are made of: interventions, measurements, statistics, tables and figures."""
