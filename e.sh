#!/usr/bin/env nopy
